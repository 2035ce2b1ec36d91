"""Frozen dataclasses that are JAX pytrees.

`jax.tree_util.register_dataclass` runs the constructor each time a tree is rebuilt, so a check in
`__post_init__` also receives tracers, shapes and sentinels. Here a tree is rebuilt without the
constructor: checks run exactly once, when the user creates the object.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, TypeVar, dataclass_transform

import jax

T = TypeVar("T")

PyTree = object
"""A pytree of arrays whose structure only the caller knows, such as all weights of a network."""


def static(**kwargs: Any) -> Any:
    """Declare a dataclass field as part of the tree's structure (hashable, never traced)."""
    return dataclasses.field(metadata={"static": True}, **kwargs)


@dataclass_transform(
    frozen_default=True, kw_only_default=True, field_specifiers=(static, dataclasses.field)
)
def pytree_dataclass(cls: type[T]) -> type[T]:
    """Make `cls` a frozen, keyword-only dataclass that is a pytree.

    Fields are children of the pytree. Fields made by `static` are part of its structure.

    >>> import jax
    >>> @pytree_dataclass
    ... class Point:
    ...     x: float = 1.0
    ...     label: str = static(default="p")
    >>> jax.tree.map(lambda leaf: 2 * leaf, Point())
    Point(x=2.0, label='p')
    """
    cls = dataclasses.dataclass(frozen=True, kw_only=True)(cls)
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    data = tuple(f.name for f in fields if not f.metadata.get("static"))
    meta = tuple(f.name for f in fields if f.metadata.get("static"))
    key_of = jax.tree_util.GetAttrKey

    def flatten(obj: T) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        children = tuple((key_of(name), getattr(obj, name)) for name in data)
        return children, tuple(getattr(obj, name) for name in meta)

    def unflatten(aux: Iterable[object], children: Iterable[object]) -> T:
        obj = object.__new__(cls)
        for name, value in zip((*meta, *data), (*aux, *children), strict=True):
            object.__setattr__(obj, name, value)
        return obj

    jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)
    return cls


def replaced(obj: T, **values: Any) -> T:
    """Return a copy of a dataclass with new values of some fields.

    The constructor of a `pytree_dataclass` does not run: values that a program computes need no
    check, and a check would wait for the device. Other dataclasses may derive values from their
    fields, so their constructor runs.

    Args:
        obj: An instance of a dataclass.
        **values: New values of fields that are pytree children.

    Returns:
        The copy.

    >>> from snnjax.dynamics import LIF
    >>> replaced(LIF(), tau_mem=0.1).tau_mem
    0.1
    """
    children, structure = jax.tree_util.tree_flatten_with_path(obj, is_leaf=lambda x: x is not obj)
    names = [jax.tree_util.keystr(path[:1], simple=True) for path, _ in children if path]
    if values.keys() <= set(names):
        return structure.unflatten(
            [values.get(name, child) for name, (_, child) in zip(names, children, strict=True)]
        )
    return dataclasses.replace(obj, **values)  # type: ignore[type-var]
