"""The README's Python runs unchanged and prints what the README shows; its commands exist."""

import re
from pathlib import Path

from snnjax._cli import COMMANDS

README = Path(__file__).resolve().parents[1] / "README.md"
BLOCK = re.compile(r"```python\n(.*?)```\n\n```text\n(.*?)```", re.DOTALL)


def test_python_blocks_print_what_is_shown(capsys):
    blocks = BLOCK.findall(README.read_text())
    assert len(blocks) == README.read_text().count("```python") == 2
    names: dict[str, object] = {}
    for block, shown in blocks:
        exec(compile(block, str(README), "exec"), names)
        printed = iter(capsys.readouterr().out.splitlines())
        for line in shown.splitlines():
            if line != "...":
                assert any(same(line, other) for other in printed), line


def same(shown, printed):
    """Whether two lines have the same words and numbers; numbers may differ by rounding."""
    number = r"-?\d+(?:\.\d+)?(?:e-?\d+)?"
    words = [re.sub(number, "#", text).split() for text in (shown, printed)]
    a, b = ([float(found) for found in re.findall(number, text)] for text in (shown, printed))
    return words[0] == words[1] and all(
        abs(x - y) <= 0.1 * abs(x) + 0.1 for x, y in zip(a, b, strict=True)
    )


def test_it_is_short_and_its_commands_exist():
    text = README.read_text()
    assert text.count("\n") <= 150
    makefile = (README.parent / "Makefile").read_text()
    for target in ("demo", "test"):
        assert f"make {target}" in text
        assert f"\n{target}:" in makefile
    for command in re.findall(r"^snnjax (\w+)", text, re.MULTILINE):
        assert command in COMMANDS


def test_pictures_and_links_are_there():
    for path in re.findall(r"\]\((?!https?:)([^)#]+)[^)]*\)", README.read_text()):
        assert (README.parent / path).exists(), path
