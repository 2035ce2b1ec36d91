"""What the reference shows of the package's docstrings and classes, beyond what Griffe reads.

Docstrings are in Google style. Here doctests become code blocks, names of the package become links,
and the annotation of the result goes in front of a `Returns:` section. Frozen pytrees and named
tuples get the constructor that Python makes for them, so that their fields are shown.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

_NAME = re.compile(r"(?<![\[`])`(snnjax(?:\.[A-Za-z]\w*)+)`(?!`)")


def normalized(text: str, returns: str = "") -> str:
    """Return a docstring in the form that Griffe reads.

    Args:
        text: The docstring, without its indentation.
        returns: The annotation of the result, or nothing.

    >>> print(normalized("See `snnjax.nn`.\\n\\nReturns:\\n    Two: and more.", "int"))
    See [`snnjax.nn`][snnjax.nn].
    <BLANKLINE>
    Returns:
        int: Two: and more.
    """
    text = "\n\n".join(map(_paragraph, text.split("\n\n")))
    if returns:  # without it, Griffe takes a colon in the text for the end of an annotation
        text = re.sub(r"^Returns:\n    ", f"Returns:\n    {returns}: ", text, flags=re.MULTILINE)
    return re.sub(r"^Parameters: ", "**Trained:** ", text, flags=re.MULTILINE)


def _paragraph(text: str) -> str:
    if text.startswith(">>> "):
        return "```pycon\n" + re.sub(r" *# doctest:.*", "", text) + "\n```"
    if text.startswith("    "):  # formulas
        return text
    return _NAME.sub(r"[`\1`][\1]", text)


class Docstrings(griffe.Extension):
    """Griffe passes each package to this extension when it has read it."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Complete all objects of a package."""
        _visit(pkg)
        _describe_calls(pkg)


def _visit(obj: griffe.Object) -> None:
    if isinstance(obj, griffe.Class):
        _add_constructor(obj)
    for member in obj.members.values():
        if isinstance(member, griffe.Object):
            _visit(member)
    if obj.docstring is not None:
        returns = str(obj.returns or "") if isinstance(obj, griffe.Function) else ""
        obj.docstring.value = normalized(obj.docstring.value, returns)


def _describe_calls(obj: griffe.Object) -> None:
    """Put `__call__` in front of the methods; without a docstring it gets that of the base class."""
    for member in obj.members.values():
        if isinstance(member, griffe.Class | griffe.Module):
            _describe_calls(member)
    call = obj.members.get("__call__")
    if isinstance(obj, griffe.Class) and isinstance(call, griffe.Function):
        call.lineno = 0  # methods are in the order of their lines
        if call.docstring is None:
            found = [base.members["__call__"] for base in obj.mro() if "__call__" in base.members]
            call.docstring = found[0].docstring if found else None


def _add_constructor(cls: griffe.Class) -> None:
    """Add what `snnjax._pytree.pytree_dataclass` and `NamedTuple` make of the fields."""
    frozen = any(str(decorator.value).endswith("pytree_dataclass") for decorator in cls.decorators)
    if "__init__" in cls.members or not (frozen or "NamedTuple" in map(str, cls.bases)):
        return
    positional = griffe.ParameterKind.positional_or_keyword
    kind = griffe.ParameterKind.keyword_only if frozen else positional
    parameters = [griffe.Parameter("self", kind=positional)]
    for name, field in cls.members.items():
        if not isinstance(field, griffe.Attribute) or field.annotation is None:
            continue
        if str(field.annotation).startswith("ClassVar"):
            continue
        default = field.value
        if isinstance(default, griffe.ExprCall) and str(default.function) == "static":
            named = {
                a.name: a.value for a in default.arguments if isinstance(a, griffe.ExprKeyword)
            }
            default = named.get("default")
        annotation = field.annotation
        parameters.append(griffe.Parameter(name, annotation=annotation, kind=kind, default=default))
    constructor = griffe.Function(
        "__init__", parameters=griffe.Parameters(*parameters), returns="None"
    )
    cls.set_member("__init__", constructor)
