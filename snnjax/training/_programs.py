"""A cache of compiled programs across calls.

`jax.jit` compiles once per function object. Training builds new functions at every call (a network,
a loss and an optimizer become one program). Without a cache, every call would compile again.
`program` recognizes a function that is built from the same parts as an earlier one:

    arrays       become arguments of the program
    the rest     is compared: numbers, strings, types and frozen dataclasses by value; containers by
                 their content; functions by their code, their defaults, their captured variables,
                 and the global variables that they read

All other captured objects may change in place (an `nnx.Module`, an instance of a user's class).
Then the program is not cached; it is compiled at each call, as without this module. Variables that
are captured by functions of libraries (JAX, Flax, Optax, this package) are assumed constant. The
cache holds the last `KEPT` programs, so that memory stays bounded. When a program is dropped, its
compiled code and its captured variables are freed.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import threading
import types
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any

import jax
import numpy as np
from jax.core import Tracer

from snnjax._pytree import PyTree

KEPT = 32
"""Number of programs in the cache; a call of `fit` needs two, or three with priming."""
_LARGEST = 2**20  # largest numpy array that is compared by its content, in bytes
_LIBRARIES = ("jax", "jaxlib", "flax", "numpy", "optax", "snnjax")


class _UnknownError(TypeError):
    """The value cannot be compared."""


class _Same:
    """Equal only for the same object. It keeps a reference, so that the `id` stays unique."""

    def __init__(self, value: object) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


_kept: OrderedDict[Hashable, Any] = OrderedDict()
_lock = threading.Lock()


def program(
    body: Callable[..., Any], given: PyTree, *, donate: int | None = None, identity: bool = False
) -> functools.partial[Any]:
    """`jax.jit` of `lambda *arguments: body(given, *arguments)`, shared by equal `given`.

    Args:
        body: A pure function that is defined at the top level of a module.
        given: A pytree. Its arrays become arguments; all other leaves are part of the program.
        donate: Index of the argument that is donated, or None.
        identity: Whether a function that cannot be compared counts as equal to itself, as under
            `jax.jit`. If False, a program with such a function is not cached.

    Returns:
        A compiled function of `arguments`.

    >>> def add(given, x):
    ...     return x + given["a"] + given["b"]
    >>> first, again = (program(add, {"a": 1.0, "b": np.ones(2)}) for _ in range(2))
    >>> first(1.0).tolist(), again.func is first.func, program(add, {"a": 2.0}).func is first.func
    ([3.0, 3.0], True, False)
    """
    leaves, structure = jax.tree.flatten(given)
    arrays = [leaf if isinstance(leaf, _ARRAYS) else None for leaf in leaves]
    constants = [None if isinstance(leaf, _ARRAYS) else leaf for leaf in leaves]

    def run(arrays: list[Any], *arguments: Any) -> Any:
        merged = [c if a is None else a for a, c in zip(arrays, constants, strict=True)]
        return body(jax.tree.unflatten(structure, merged), *arguments)

    def make() -> Any:
        return jax.jit(run, donate_argnums=() if donate is None else donate + 1)

    try:
        found = tuple(_leaf(leaf, identity) for leaf in constants)
        key = (body, structure, found, donate)
        hash(key)
    except TypeError:
        return functools.partial(make(), arrays)
    with _lock:
        jitted = _kept[key] = _kept.pop(key, None) or make()
        while len(_kept) > KEPT:
            _kept.popitem(last=False)
    return functools.partial(jitted, arrays)


_ARRAYS = (jax.Array, np.ndarray, Tracer)
_BY_VALUE = (bool, int, float, complex, str, bytes, np.generic)
_ONE_OF_A_KIND = (type, types.ModuleType, types.BuiltinFunctionType, enum.Enum, np.dtype)


def _leaf(value: object, identity: bool) -> Hashable:
    try:
        return fingerprint(value)
    except _UnknownError:
        if not identity:
            raise
        return _Same(value)


def fingerprint(value: object, above: tuple[object, ...] = (), trusted: bool = False) -> Hashable:
    """A hashable key that is equal for two values only if they behave the same, now and later.

    Args:
        value: Any object: a function, a number, a container.
        above: The enclosing functions, from the outermost inwards; a function may capture itself.
        trusted: Whether the value is captured by a function of a library.

    Returns:
        The key.

    Raises:
        TypeError: A part of the value cannot be compared.

    >>> def scaled(a):
    ...     return lambda x: a * x
    >>> fingerprint(scaled(2.0)) == fingerprint(scaled(2.0)) != fingerprint(scaled(3.0))
    True
    """
    of = functools.partial(fingerprint, above=above, trusted=trusted)
    if value is None or isinstance(value, _ONE_OF_A_KIND):
        return _Same(value)
    if isinstance(value, _BY_VALUE):
        return type(value), repr(value)  # 1 == 1.0 == True and 0.0 == -0.0, but nan != nan
    if isinstance(value, Tracer):
        raise _UnknownError("a traced value belongs to one trace")
    if isinstance(value, tuple | list):
        return type(value), tuple(of(item) for item in value)
    if isinstance(value, dict):
        return type(value), tuple((of(key), of(item)) for key, item in value.items())
    if isinstance(value, functools.partial):
        return type(value), of(value.func), of(value.args), of(value.keywords)
    if isinstance(value, types.FunctionType):
        return _function(value, above)
    if isinstance(value, types.MethodType):
        return type(value), of(value.__func__), of(value.__self__)
    if isinstance(value, jax.Array):
        return _Same(value)
    if isinstance(value, np.ndarray) and value.nbytes <= _LARGEST and not value.dtype.hasobject:
        return value.shape, value.dtype, value.tobytes()
    kind: Any = type(value)
    frozen = lambda: kind.__dataclass_params__.frozen
    if dataclasses.is_dataclass(kind) and frozen():
        return kind, tuple(of(getattr(value, f.name)) for f in dataclasses.fields(kind))
    if trusted or type(value).__module__.partition(".")[0] in ("jax", "jaxlib", "optax"):
        return _Same(value)  # jitted functions and the like
    raise _UnknownError(f"a {type(value).__name__} may change in place")


def _function(value: types.FunctionType, above: tuple[object, ...]) -> Hashable:
    if any(value is one for one in above):
        return "itself", next(k for k, one in enumerate(above) if one is value)
    trusted = (value.__module__ or "").partition(".")[0] in _LIBRARIES
    of = functools.partial(fingerprint, above=(*above, value), trusted=trusted)
    cells = []
    for cell in value.__closure__ or ():
        try:
            cells.append(of(cell.cell_contents))
        except ValueError:  # not set yet
            cells.append(None)
    names = () if trusted else tuple(dict.fromkeys(_names(value.__code__)))
    read = tuple((name, of(found)) for name, found in _read(names, value.__globals__))
    settings = of((value.__defaults__, value.__kwdefaults__, value.__dict__))
    return value.__code__, _Same(value.__globals__), settings, tuple(cells), read


def _read(names: tuple[str, ...], namespace: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The variables with these names in a namespace and in the user's modules in it."""
    for name in names:
        if name in namespace:
            found = namespace[name]
            yield name, found
            module = isinstance(found, types.ModuleType)
            if module and found.__name__.partition(".")[0] not in _LIBRARIES:
                yield from ((n, vars(found)[n]) for n in names if n in vars(found))


def _names(code: types.CodeType) -> Iterator[str]:
    """Names of global variables (and attributes) in a function and in its nested functions."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
