"""Flags of the command line from the fields of parts (`snnjax.experiments._options`).

Every field of a tree of parts is a flag: `sigma_u` is `--sigma-u`. The help of a flag is the string
below its field. Flags are grouped by the part that they belong to. Where a flag chooses a class, it
is read first, because the other flags depend on it. In a sweep, a flag takes several values:
0.1,0.3,1 or low:high:number or low:high:log:number.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import difflib
import functools
import inspect
import itertools
import re
import textwrap
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from snnjax.experiments._options import Option, Part, kinds_of, of_another_choice, options_of

ALIASES = {"learning_rate": ("--lr",)}
"""Other flags of an option."""


class UsageError(ValueError):
    """A flag or its value is wrong."""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line with a suggestion.

    Args:
        prog: The command.
        own: Options of the command itself, whose docstring says what it does.
        **options: As for `argparse.ArgumentParser`.

    Attributes:
        tree: The parts that its flags are from (`add_flags`).
    """

    tree: Part | None = None

    def __init__(self, prog: str = "", own: Part | None = None, **options: Any) -> None:
        kind = functools.partial(argparse.RawDescriptionHelpFormatter, max_help_position=28)
        text = own and inspect.getdoc(type(own))
        given = {"prog": prog, "usage": f"{prog} [flags]", "description": text} | options
        super().__init__(allow_abbrev=False, formatter_class=kind, **given)
        if own is not None:
            add_flags(self, own)

    def error(self, message: str) -> NoReturn:
        text = re.sub(r"^argument ([^\s/]+)\S*: ", r"\1 ", message)  # without aliases
        raise UsageError(f"{text}; see {self.prog} --help")

    def parse(self, argv: Sequence[str]) -> dict[str, Any]:
        """Return the flags that are given, by the name of their field.

        Args:
            argv: The arguments.

        Raises:
            UsageError: A flag is unknown or has a wrong value. The message names it.
        """
        found, rest = self.parse_known_args(_joined(argv))
        for word in rest:
            flag = word.partition("=")[0]
            if flag.startswith("--"):
                # as in Python: --learning_rate, or --training.epochs with the name of the part
                typed = f"--{flag[2:].rpartition('.')[2].replace('_', '-')}"
                name, known = typed[2:].replace("-", "_"), self._option_string_actions
                other = self.tree and typed not in known and of_another_choice(name, self.tree)
                if other:
                    raise UsageError(flag + other.removeprefix(name))
                near = difflib.get_close_matches(typed, known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"see {self.prog} --help"
                raise UsageError(f"unknown flag {flag}; {hint}")
        if rest:
            self.error(f"unexpected {rest[0]!r}")
        return vars(found)


def _joined(argv: Sequence[str]) -> list[str]:
    """Join a flag and a value that begins with a minus sign by "="."""
    words: list[str] = []
    for word in argv:
        if re.match(r"-[\d.]", word) and words and words[-1].startswith("--"):
            words[-1] += f"={word}"
        else:
            words.append(word)
    return words


def add_flags(parser: Parser, part: Part, *, several: bool = False) -> None:
    """Add a flag for every option of a tree of parts.

    Args:
        parser: The parser.
        part: The tree, with the values that hold if a flag is not given.
        several: Whether a flag takes several values. Then each result is a list.
    """
    parser.tree = part
    groups: dict[int, Any] = {}
    for option in options_of(part):
        owner = option.part
        if id(owner) not in groups:
            groups[id(owner)] = parser.add_argument_group(*_heading(owner))
        if option.name != "task":
            _add(groups[id(owner)], option, several)


def _heading(part: Part) -> tuple[str, str]:
    """Return the title and the first paragraph of a group."""
    kind = next(c for c in type(part).__mro__ if issubclass(c, Part) and Part in c.__bases__)
    name = kind.__name__.lower()
    if name.endswith("options"):  # of a command, whose help begins with the same text
        return "command", ""
    summary = inspect.getdoc(type(part)) or ""
    return f"{name}: {part.name}" if part.name else name, summary.partition("\n\n")[0]


def _add(group: Any, option: Option, several: bool) -> None:
    kinds = () if option.choices else kinds_of(type(option.part))[option.field.name]
    text = texts_of(type(option.part)).get(option.field.name, "").replace("%", "%%")
    default = shown(option.value)
    settings: dict[str, Any] = {"dest": option.name, "default": argparse.SUPPRESS}
    if option.choices:
        lines = [f"{c.name}: {(inspect.getdoc(c) or '').splitlines()[0]}" for c in option.choices]
        text = "\n".join([text, *lines])
    # None is typed as none
    settings["help"] = f"{text.replace('None:', 'none:')} [{default}]"
    if bool in kinds and not several:
        settings["action"] = argparse.BooleanOptionalAction
    else:
        settings["metavar"] = _metavar(option, kinds)
        settings["type"] = functools.partial(_values if several else _value, option, kinds)
        if _is_tuple(kinds) and not several:
            settings["nargs"] = "+"
        if bool in kinds:
            settings |= {"nargs": "?", "const": "yes"}
    flag = f"--{option.name.replace('_', '-')}"
    group.add_argument(flag, *ALIASES.get(option.name, ()), **settings)


def _metavar(option: Option, kinds: tuple[Any, ...]) -> str:
    if _words(option, kinds):
        return "NAME"
    if _is_tuple(kinds):
        return "N"
    return {int: "N", float: "X", Path: "PATH", bool: "yes|no"}.get(kinds[0], "TEXT")


def _words(option: Option, kinds: tuple[Any, ...]) -> list[str]:
    """Return the words that a flag takes, or an empty list."""
    literals = [w for kind in kinds for w in typing.get_args(kind) if isinstance(w, str)]
    return [cls.name for cls in option.choices] or literals


def _is_tuple(kinds: tuple[Any, ...]) -> bool:
    return any(typing.get_origin(kind) is tuple for kind in kinds)


def _value(option: Option, kinds: tuple[Any, ...], text: str) -> Any:
    """Return the value of one word of a flag."""
    if type(None) in kinds and text.lower() == "none":
        return None
    if words := _words(option, kinds):
        numbered = option.name == "model" and text.rstrip("0123456789") in words
        if text in words or numbered:
            return text
        near = difflib.get_close_matches(text, words, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(words)}, got {text!r}{hint}")
    if bool in kinds:
        if text not in ("yes", "no"):
            raise argparse.ArgumentTypeError(f"must be yes or no, got {text!r}")
        return text == "yes"
    make: Callable[[str], Any] = int if _is_tuple(kinds) else kinds[0]
    try:
        return make(text)
    except ValueError:
        what = "a whole number" if make is int else "a number"
        if _is_tuple(kinds):
            what = "whole numbers, separated by spaces (in a sweep by x)"
        raise argparse.ArgumentTypeError(f"must be {what}, got {text!r}") from None


def _values(option: Option, kinds: tuple[Any, ...], text: str) -> list[Any]:
    """Return the values of a flag of a sweep, at least one."""
    one = functools.partial(_value, option, kinds)
    if _is_tuple(kinds):
        return [tuple(map(one, word.split("x"))) for word in text.split(",")]
    if kinds and kinds[0] is float and ":" in text:
        try:
            return list(parse_values(text))
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    return [text] if Path in kinds else [one(word) for word in text.split(",")]


def parse_values(text: str) -> list[float]:
    """Return the numbers that a flag of a sweep names.

    Args:
        text: "0.1,0.3,1" or "low:high:number" or "low:high:log:number".

    Raises:
        ValueError: The text has another form.

    >>> parse_values("0.5,1"), parse_values("0:1:3")
    ([0.5, 1.0], [0.0, 0.5, 1.0])
    >>> [round(v, 3) for v in parse_values("0.01:100:log:5")]
    [0.01, 0.1, 1.0, 10.0, 100.0]
    """
    try:
        if ":" not in text:
            return [float(v) for v in text.split(",")]
        low, high, *scale, number = text.split(":")
        ends, count = (float(low), float(high)), int(number)
        known = scale in ([], ["log"], ["lin"])
        if count < 1 or not known or (scale == ["log"] and min(ends) <= 0):
            raise ValueError
    except ValueError:
        raise ValueError(
            "values must be like 0.1,0.3,1 or 0:1:5 or 0.01:100:log:13 "
            f"(low:high:log:number, low > 0), got {text!r}"
        ) from None
    values = np.geomspace(*ends, count) if scale == ["log"] else np.linspace(*ends, count)
    # ten digits, so that a value read from a file name is the same number
    return [float(f"{v:.10g}") for v in values]


def shown(value: object) -> str:
    """Return a default as it would be typed.

    >>> shown((64, 32)), shown(0.1), shown(True), shown(None)
    ('64 32', '0.1', 'yes', 'none')
    """
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, tuple):
        return " ".join(map(shown, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


@functools.cache
def texts_of(cls: type[Part]) -> Mapping[str, str]:
    """Return the string below each field of a part, its base classes included, as one line each."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if dataclasses.is_dataclass(base):
            found |= dict(_texts(base))
    return found


def _texts(cls: type) -> Iterator[tuple[str, str]]:
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    body: list[Any] = getattr(tree, "body", [])
    for field, text in itertools.pairwise(body):
        match field, text:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(found))),
            ):
                yield name, " ".join(found.split())
