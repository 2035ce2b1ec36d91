"""The README's Python runs unchanged, all blocks in one namespace, and its commands exist."""

import re
from pathlib import Path

from snnjax._cli import COMMANDS

README = Path(__file__).resolve().parents[1] / "README.md"


def test_python_blocks_run(capsys):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(blocks) >= 3
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    assert names["weights"].shape == (700, 128)
    assert abs(float(names["weights"].std()) - 0.2108) < 0.002
    assert "layer is healthy" in capsys.readouterr().out


def test_commands_exist():
    text = README.read_text()
    makefile = (README.parent / "Makefile").read_text()
    for target in ("demo", "test"):
        assert f"make {target}" in text
        assert f"\n{target}:" in makefile
    for command in re.findall(r"^snnjax (\w+)", text, re.MULTILINE):
        assert command in COMMANDS


def test_pictures_are_there():
    for path in re.findall(r"!\[.*?\]\((.*?)\)", README.read_text()):
        assert (README.parent / path).read_bytes().startswith(b"\x89PNG")
