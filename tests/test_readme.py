"""The README's Python examples run as they stand."""

import doctest
from pathlib import Path

import jax
import jax.numpy as jnp

README = Path(__file__).resolve().parents[1] / "README.md"


def test_examples_run():
    text = README.read_text()
    # the closing fence would be read as expected output
    examples = doctest.DocTestParser().get_doctest(text.replace("```", ""), {"jax": jax, "jnp": jnp}, "README", str(README), 0)
    assert len(examples.examples) >= 8
    result = doctest.DocTestRunner().run(examples)
    assert result.failed == 0


def test_commands_exist():
    text = README.read_text()
    makefile = (README.parent / "Makefile").read_text()
    for target in ("demo", "test"):
        assert f"make {target}" in text
        assert f"\n{target}:" in makefile
