"""Options of an experiment: the fields of nested dataclasses, found and changed by their names.

An experiment is a tree of parts (`Part`). The names of all fields in the tree are different, so
that one flat set of names serves as keyword arguments, flags of the command line, columns of
results, and what a sweep varies. A field that has "choices" in its metadata holds one of several
classes; its option is the metadata's "flag", and its value is the `name` of the class.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import inspect
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from snnjax import _check

P = TypeVar("P", bound="Part")


class Range(typing.NamedTuple):
    """The numbers that a field accepts; the names are those of `_check.number`."""

    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None
    unit: str = ""


Count = Annotated[int, Range(at_least=1)]
Natural = Annotated[int, Range(at_least=0)]
Seconds = Annotated[float, Range(above=0, unit="s")]
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(at_least=0)]
Fraction = Annotated[float, Range(above=0, below=1)]
Probability = Annotated[float, Range(at_least=0, below=1)]


@typing.dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(dataclasses.field,)
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """A group of options. Every class that derives from it is a frozen dataclass, too.

    Attributes:
        name: Name of the class, where there is a choice.
        traced: Fields that change neither shapes nor the program. Members of a sweep that differ
            only in these train together.
    """

    name: ClassVar[str] = ""
    traced: ClassVar[tuple[str, ...]] = ()

    def __init_subclass__(cls) -> None:
        dataclasses.dataclass(frozen=True, kw_only=True)(cls)

    def __post_init__(self) -> None:
        for name, kinds in kinds_of(type(self)).items():
            value = getattr(self, name)
            if value is None and type(None) in kinds:
                continue
            words = [w for kind in kinds for w in typing.get_args(kind) if isinstance(w, str)]
            if words:
                _check.one_of(name, value, words)
            elif bool in kinds and not isinstance(value, bool):
                either = "True, False or None" if type(None) in kinds else "True or False"
                raise TypeError(f"{name} must be {either}, got {value!r}")
            elif (limits := ranges_of(type(self)).get(name)) is None:
                continue
            elif int in kinds:
                ends: Any = {"at_least": limits.at_least, "at_most": limits.at_most}
                _check.integer(name, value, **ends)
            else:
                _check.number(name, value, **limits._asdict())


@functools.cache
def ranges_of(cls: type[Part]) -> dict[str, Range]:
    """Return the range of each field that has one."""
    found: dict[str, Range] = {}
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        for kind in (hint, *typing.get_args(hint)):
            for limits in getattr(kind, "__metadata__", ()):
                found[name] = limits
    return found


@functools.cache
def kinds_of(cls: type[Part]) -> dict[str, tuple[Any, ...]]:
    """Return the types that each field of a part accepts: the members of its union."""
    hints = typing.get_type_hints(cls)
    unions = {f.name: hints[f.name] for f in dataclasses.fields(cls)}
    return {
        name: typing.get_args(hint) if type(None) in typing.get_args(hint) else (hint,)
        for name, hint in unions.items()
    }


class Option(typing.NamedTuple):
    """An option of a tree.

    Attributes:
        name: Its name.
        value: Its value; the name of the class if it is a choice.
        part: The part that it is a field of.
        field: The field.
        choices: The classes to choose from, or an empty tuple.
    """

    name: str
    value: Any
    part: Part
    field: dataclasses.Field[Any]
    choices: tuple[type[Part], ...]


def options_of(part: Part) -> Iterator[Option]:
    """Return every option of a tree, in the order of its fields."""
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if choices := field.metadata.get("choices", ()):
            yield Option(field.metadata["flag"], value.name, part, field, choices)
        if isinstance(value, Part):
            yield from options_of(value)
        else:
            yield Option(field.name, value, part, field, ())


def replaced(part: P, options: Mapping[str, Any]) -> P:
    """Return a tree with other values of some options.

    If another class is chosen, it keeps the values of fields that both classes have from a common
    base class. A field with defaults of its own in each class (`learning_rate`) keeps a value that
    is not the default.

    Args:
        part: The tree.
        options: New values by name. Lists become tuples, and strings become paths where a field is
            a path.

    Raises:
        ValueError: A name is not an option of the changed tree, or a part refuses its value.
    """
    used: set[str] = set()
    changed = _replaced(part, options, used)
    for name in options:
        if name not in used:
            raise ValueError(_unknown(name, changed))
    return changed


def _replaced(part: P, options: Mapping[str, Any], used: set[str]) -> P:
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        flag: str = field.metadata.get("flag", "")
        if flag in options:
            used.add(flag)
            value = _chosen(value, flag, field.metadata["choices"], options[flag])
        if isinstance(value, Part):
            changes[field.name] = _replaced(value, options, used)
        elif field.name in options:
            used.add(field.name)
            kinds = kinds_of(type(part))[field.name]
            changes[field.name] = _typed(options[field.name], kinds)
    return dataclasses.replace(part, **changes)


def _typed(value: Any, kinds: tuple[Any, ...]) -> Any:
    if isinstance(value, str) and Path in kinds:
        return Path(value)
    return tuple(value) if isinstance(value, list) else value


def _chosen(old: Part, flag: str, choices: tuple[type[Part], ...], name: str) -> Part:
    """Return a part of the named class, with the fields that it shares with `old`."""
    _check.one_of(flag, name, [cls.name for cls in choices])
    cls = next(cls for cls in choices if cls.name == name)
    if type(old) is cls:
        return old
    both = {f.name for f in dataclasses.fields(old)} & {f.name for f in dataclasses.fields(cls)}
    common = [base for base in type(old).__mro__ if issubclass(cls, base)]
    own = {field.name: field.default for field in dataclasses.fields(old)}

    def kept(name: str) -> bool:
        if _defined_by(type(old), name) is _defined_by(cls, name):
            return True
        shared = any(name in inspect.get_annotations(base) for base in common)
        return shared and getattr(old, name) != own[name]

    return cls(**{name: getattr(old, name) for name in both if kept(name)})


def _defined_by(cls: type[Part], name: str) -> type:
    return next(base for base in cls.__mro__ if name in inspect.get_annotations(base))


def _unknown(name: str, part: Part) -> str:
    """Say which choice has an option, or which option has a similar name."""
    if elsewhere := of_another_choice(name, part):
        return elsewhere
    names = [option.name for option in options_of(part)]
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else f"; options are {', '.join(names)}"
    return f"{name} is not an option of this experiment{hint}"


def of_another_choice(name: str, part: Part) -> str | None:
    """Return the message that other classes of a choice have an option, or None."""
    for option in options_of(part):
        having = [c.name for c in option.choices if name in {f.name for f in dataclasses.fields(c)}]
        if having:
            needed = f"{option.name} {' or '.join(map(repr, having))}"
            return f"{name} is an option of {needed}, got {option.name} {option.value!r}"
    return None
