"""The package's docstrings as Griffe's Google parser reads them, before it does.

They put short arguments on one line, `dt: time step, s.   theta: threshold.`, say several in one, `tau_mem, tau_syn: s.`, and have doctests anywhere. Here
each argument gets a line of its own, sentences that are no argument go behind the section, doctests become code blocks, names of the package links. Frozen
pytrees and named tuples get the constructor that Python makes for them, so that their fields are seen.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection
from typing import Any

import griffe

_SECTION = re.compile(r"^(Args|Attributes|Raises|Returns):$")
_HEAD = r"\*{0,2}[A-Za-z_]\w*(?:, \*{0,2}[A-Za-z_]\w*)*:(?=\s)"
_SPLIT = re.compile(rf"(?<=\S) {{3,}}(?={_HEAD})")
_ITEM = re.compile(rf"^({_HEAD})\s+(.*)$", re.DOTALL)
_NAME = re.compile(r"(?<![\[`])`(snnjax(?:\.[A-Za-z]\w*)+)`(?!`)")


def normalized(text: str, parameters: Collection[str] = (), returns: str = "") -> str:
    """A docstring in the form that Griffe reads.

    Args:
      text: the docstring, without its indentation.   parameters: names that a section of arguments may hold.
      returns: the annotation of what is returned, or nothing.

    >>> print(normalized("Add.\\n\\nArgs:\\n  a, b: numbers.   c: one more.\\n  All may be arrays.", ["a", "b", "c"]))
    Add.
    <BLANKLINE>
    Args:
        a: (`a`, `b`) numbers.
        b: (`a`, `b`) numbers.
        c: one more.
    <BLANKLINE>
    All may be arrays.
    """
    out: list[str] = []
    lines = text.split("\n")
    k = 0
    while k < len(lines):
        line = lines[k]
        if header := _SECTION.match(line):
            block, k = _block(lines, k + 1)
            out += ["", *_section(header[1], block, parameters, returns), ""]
        elif line.startswith(">>> "):
            end = next((j for j in range(k, len(lines)) if not lines[j].strip()), len(lines))
            out += [
                "",
                "```pycon",
                *(re.sub(r"\s*# doctest:.*$", "", example) for example in lines[k:end]),
                "```",
                "",
            ]
            k = end
        else:
            out.append(
                line
                if line.startswith("    ")
                else _NAME.sub(r"[`\1`][\1]", re.sub(r"^Parameters: ", "**Trained:** ", line))
            )
            k += 1
    return re.sub(r"\n{3,}", "\n\n", "\n".join(out)).strip("\n")


def _block(lines: list[str], k: int) -> tuple[list[str], int]:
    """The indented lines from k on, and where they end."""
    block = []
    while k < len(lines) and (
        lines[k].startswith(" ")
        or (not lines[k].strip() and k + 1 < len(lines) and lines[k + 1].startswith(" "))
    ):
        block.append(lines[k])
        k += 1
    return block, k


def _section(kind: str, block: list[str], parameters: Collection[str], returns: str) -> list[str]:
    linked = [_NAME.sub(r"[`\1`][\1]", line) for line in block]
    if kind == "Returns":
        text = [line.strip() for line in linked]
        # with the annotation in front no colon of the text is taken for its end
        return (
            [
                "Returns:",
                f"    {returns}: {text[0]}",
                *(f"        {line}" if line else "" for line in text[1:]),
            ]
            if returns
            else ["Returns:", "", *text]
        )
    items: list[str] = []
    margin = len(linked[0]) - len(linked[0].lstrip()) if linked else 0
    for line in linked:
        if not items or (line.strip() and len(line) - len(line.lstrip()) <= margin):
            items.append(line.strip())
        else:
            items[-1] += f"\n{line.strip()}"
    entries, prose = [], []
    for item in itertools.chain.from_iterable(map(_SPLIT.split, items)):
        found = _ITEM.match(item)
        names = [] if found is None else found[1].rstrip(":").split(", ")
        if found is None or (
            kind == "Args" and any(name.lstrip("*") not in parameters for name in names)
        ):
            prose.append(item)
            continue
        body = re.sub(r"^>", r"\\>", found[2]).split("\n")  # else a quotation
        if (
            kind != "Raises" and len(names) > 1
        ):  # what is said of all of them may be said of each in turn
            body[0] = f"({', '.join(f'`{name}`' for name in names)}) {body[0]}"
        for name in [", ".join(names)] if kind == "Raises" else names:
            entries += [f"    {name}: {body[0]}", *(f"        {line}" for line in body[1:])]
    return [*([f"{kind}:", *entries, ""] if entries else []), *(f"{item}\n" for item in prose)]


class Docstrings(griffe.Extension):
    """Griffe hands every object over as it is read."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Rewrite the docstrings of all objects of a package."""
        _visit(pkg)


def _add_constructor(cls: griffe.Class) -> None:
    """What `snnjax._pytree.pytree_dataclass` and `NamedTuple` make of the fields."""
    frozen = any(str(decorator.value).endswith("pytree_dataclass") for decorator in cls.decorators)
    if "__init__" in cls.members or not (frozen or "NamedTuple" in map(str, cls.bases)):
        return
    kind = (
        griffe.ParameterKind.keyword_only if frozen else griffe.ParameterKind.positional_or_keyword
    )
    parameters = [griffe.Parameter("self", kind=griffe.ParameterKind.positional_or_keyword)]
    for name, field in cls.members.items():
        if not field.is_attribute or field.annotation is None:
            continue
        default = field.value
        if isinstance(default, griffe.ExprCall) and str(default.function) == "static":
            default = next(
                (a.value for a in default.arguments if getattr(a, "name", "") == "default"), None
            )
        parameters.append(
            griffe.Parameter(name, annotation=field.annotation, kind=kind, default=default)
        )
    cls.set_member(
        "__init__",
        griffe.Function("__init__", parameters=griffe.Parameters(*parameters), returns="None"),
    )


def _visit(obj: Any) -> None:
    if obj.is_class:
        _add_constructor(obj)
    for member in obj.members.values():
        if not member.is_alias:
            _visit(member)
    if obj.docstring is None:
        return
    parameters = (
        {p.name.lstrip("*") for p in obj.parameters} if obj.is_function or obj.is_class else set()
    )
    returns = (
        str(obj.returns)
        if obj.is_function and obj.returns is not None and str(obj.returns) != "None"
        else ""
    )
    obj.docstring.value = normalized(obj.docstring.value, parameters, returns)
