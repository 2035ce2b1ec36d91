"""The public surface: the names in __all__, in the reference, and the table in CONTRIBUTING."""

import importlib
import io
import re
import subprocess
import sys
import tokenize

import pytest
from _support import REPOSITORY

import snnjax

PACKAGE = REPOSITORY / "snnjax"
MODULES = [f"snnjax.{name}" for name in snnjax._SUBMODULES]
COMMANDS = {"experiments", "reproduce"}  # parts of the command line, not of the library


def test_every_module_is_public_or_has_an_underscore():
    found = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    assert {name for name in found if not name.startswith("_")} == set(snnjax._SUBMODULES)
    inside = [p.name for p in PACKAGE.glob("*/*.py") if p.parent.name not in COMMANDS]
    assert [name for name in inside if not name.startswith("_")] == []


@pytest.mark.parametrize("name", MODULES)
def test_public_names_exist_and_have_docstrings(name):
    module = importlib.import_module(name)
    assert len(set(module.__all__)) == len(module.__all__)
    for public in module.__all__:
        value = getattr(module, public)
        assert value.__doc__, f"{name}.{public}"
        assert value.__module__.startswith("snnjax."), f"{name}.{public}"


def test_there_are_few_public_names():
    assert sum(len(importlib.import_module(name).__all__) for name in MODULES) <= 170


def test_common_names_are_those_of_their_modules():
    for name, module in snnjax._MODULE_OF.items():
        assert getattr(snnjax, name) is getattr(importlib.import_module(f"snnjax.{module}"), name)
        assert name in importlib.import_module(f"snnjax.{module}").__all__
    assert sorted(snnjax._MODULE_OF) == sorted(snnjax.__all__)
    assert set(snnjax.__all__) <= set(dir(snnjax))


def test_nothing_is_loaded_before_it_is_used():
    code = (
        "import sys, snnjax; assert 'jax' not in sys.modules; from snnjax import superspike; "
        "assert 'jax' in sys.modules and 'flax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=REPOSITORY)


def test_contributing_says_where_things_are():
    text = (REPOSITORY / "CONTRIBUTING.md").read_text().partition("## Where things are")[2]
    rows = re.findall(r"^\| [^|]* \| `(snnjax/\S+)`(.*)\|$", text, re.MULTILINE)
    assert len(rows) > 5
    for path, rest in rows:
        assert (REPOSITORY / path).exists(), path
        if (REPOSITORY / path).is_dir():
            continue
        for name in re.findall(r"`(?:\w+\.)?(\w+)`", rest.partition(";")[0]):
            assert name in (REPOSITORY / path).read_text(), (path, name)


def names(source):
    return {t.string for t in tokenize.generate_tokens(io.StringIO(source).readline) if t.type == 1}


def test_vocabulary():
    text = (REPOSITORY / "CONTRIBUTING.md").read_text().partition("## Vocabulary")[2]
    rows = [re.findall(r"`(\w+)`", cell) for cell in re.findall(r"^\|.*\|([^|]*)\|$", text, re.M)]
    avoided = {word for row in rows for word in row}
    assert {"n_classes", "n_inputs", "nu_rec"} <= avoided
    for path in PACKAGE.rglob("*.py"):
        assert not avoided & names(path.read_text()), path
