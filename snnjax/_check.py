"""Argument checks. The messages name the argument, the value and what is allowed.

A traced value (inside jit, vmap or grad) has no number yet; it is not checked.

JAX is imported where it is needed, so that the command line can check options without it.
"""

from __future__ import annotations

import contextlib
import difflib
import math
import numbers
import sys
import warnings
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar, cast, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    import jax
    from numpy.typing import DTypeLike

T = TypeVar("T")


@runtime_checkable
class Shaped(Protocol):
    """An array, or an object that has the shape of one, such as an `EventRaster`."""

    @property
    def shape(self) -> tuple[int, ...]: ...


@runtime_checkable
class Between(Protocol):
    """A distribution of values between two ends, such as `snnjax.dynamics.Uniform`."""

    @property
    def low(self) -> float: ...

    @property
    def high(self) -> float: ...


Scalar: TypeAlias = "float | np.ndarray | jax.Array"
"""A real number, or an array of them that broadcasts (one per neuron)."""


def concrete(value: object) -> np.ndarray | None:
    """Return a value as a float64 array, or None if it is traced.

    Args:
        value: A number, an array, a Flax variable with one of them, or a distribution, which gives
            both its ends.
    """
    if not isinstance(value, float | int | np.ndarray):
        if isinstance(value, Between):
            return np.array([value.low, value.high], np.float64)
        import jax
        from jax.core import Tracer

        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(value)):
            return None
    return np.asarray(value, dtype=np.float64)


def number(
    name: str,
    value: T,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
    finite: bool = True,
    unit: str = "",
) -> T:
    """Return `value` if it is a real scalar or array with all elements within the bounds.

    Args:
        name: Name of the argument, for the message.
        value: The value. A traced value is not checked.
        above: Exclusive lower bound, or None.
        at_least: Inclusive lower bound, or None.
        below: Exclusive upper bound, or None.
        at_most: Inclusive upper bound, or None.
        finite: If True, infinite values are refused. NaN is always refused.
        unit: Unit of the bounds, for the message.

    Returns:
        `value`.

    Raises:
        TypeError: It is not a real number or an array of real numbers.
        ValueError: An element is out of bounds.

    >>> number("tau_mem", 0.02, above=0, unit="s")
    0.02
    >>> number("tau_mem", -1.0, above=0, unit="s")
    Traceback (most recent call last):
    ...
    ValueError: tau_mem must be finite and > 0 s, got -1.0
    """
    try:
        if isinstance(value, bool | np.bool_ | str | bytes | list | tuple) or value is None:
            raise TypeError
        array = concrete(value)
    except (TypeError, ValueError):
        raise TypeError(
            f"{name} must be a real number or an array of them, got {type(value).__name__} "
            f"{value!r}"
        ) from None
    if array is None:
        return value
    bad = np.isnan(array) | (np.isinf(array) if finite else False)
    rules = ["finite"] if finite else []
    suffix = f" {unit}" if unit else ""
    for bound, symbol, broken in (
        (above, ">", np.less_equal),
        (at_least, ">=", np.less),
        (below, "<", np.greater_equal),
        (at_most, "<=", np.greater),
    ):
        if bound is not None:
            bad = bad | broken(array, bound)
            rules.append(f"{symbol} {bound:g}{suffix}")
    if np.any(bad):
        shown = value if array.ndim == 0 else array[bad].ravel()[0]
        raise ValueError(f"{name} must be {' and '.join(rules) or 'a number'}, got {shown}")
    return value


def hint_seconds(name: str, value: object) -> None:
    """Warn if a time step or a time constant is longer than 1 s, because its unit may be wrong.

    Args:
        name: Name of the argument.
        value: Real number or array, s. A traced value is not checked.

    >>> import warnings
    >>> with warnings.catch_warnings(record=True) as caught:
    ...     warnings.simplefilter("always")
    ...     hint_seconds("tau_mem", 0.02)
    ...     hint_seconds("dt", 2)
    >>> [str(w.message) for w in caught]
    ['dt = 2 s is longer than 1 s; times are in seconds: did you mean 0.002?']
    """
    array = concrete(value)
    longest = -math.inf if array is None else array.max(initial=-math.inf)
    if longest > 1:
        meant = longest / (1e3 if longest < 1e3 else 1e6)  # milliseconds, else microseconds
        warn(
            f"{name} = {longest:g} s is longer than 1 s; times are in seconds: did you mean "
            f"{meant:g}?"
        )


def warn(message: str) -> None:
    """Give a UserWarning at the line that called this package, from any depth inside the package.

    Args:
        message: What is unusual and what to do.
    """
    frame, level = sys._getframe(1), 2
    while (
        frame is not None and frame.f_globals.get("__name__", "").partition(".")[0] == __package__
    ):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)


@contextlib.contextmanager
def at(place: str) -> Iterator[None]:
    """Put `place` in front of the message of any error that is raised in the block.

    The error keeps its type. If the type cannot be created from a message, or does not show the
    message unchanged, the nearest base class that can is used: a KeyError becomes a LookupError.

    Args:
        place: Where the error occurred, for example "recording 3".

    >>> with at("recording 3"):
    ...     raise TypeError("units must contain integers")
    Traceback (most recent call last):
    ...
    TypeError: recording 3: units must contain integers
    """
    try:
        yield
    except Exception as error:
        raise _with_place(error, place) from error


def _with_place(error: Exception, place: str) -> Exception:
    """Return an error of the same type, or its nearest suitable base class, that names `place`."""
    own = type(error)
    for kind in own.__mro__[:-2]:  # without BaseException and object
        message = (
            f"{place}: {str(error) or own.__name__}"
            if kind is own
            else f"{place}: {own.__name__}: {error}"
        )
        with contextlib.suppress(Exception):
            new = kind(message)
            if str(new) == message:
                return new
    return RuntimeError(f"{place}: {own.__name__}")


def same_dt(name: str, source: object, dt: object) -> None:
    """Raise if `source` is known to have another time step.

    Args:
        name: Name of the source, for the message.
        source: Source of batches. Its attribute `dt` is its time step, s. A source without the
            attribute, or with None, is not checked.
        dt: Time step of the network, s. A traced value is not checked.

    Raises:
        ValueError: The time steps differ.
    """
    own, wanted = getattr(source, "dt", None), concrete(dt)
    if (
        own is not None
        and wanted is not None
        and not math.isclose(own, float(wanted), rel_tol=1e-6)
    ):
        raise ValueError(
            f"dt must be the time step of {name}, {own:g} s, got {float(wanted):g} s; bin the data "
            "with the time step of the network"
        )


def integer(
    name: str, value: object, *, at_least: int | None = None, at_most: int | None = None
) -> int:
    """Return `value` as an int if it is a whole number within the inclusive bounds.

    Args:
        name: Name of the argument, for the message.
        value: The value.
        at_least: Lower bound, or None.
        at_most: Upper bound, or None.

    Raises:
        TypeError: It is not a whole number.
        ValueError: It is out of bounds.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral | np.integer):
        raise TypeError(f"{name} must be an integer, got {type(value).__name__} {value!r}")
    value = int(value)
    if (at_least is not None and value < at_least) or (at_most is not None and value > at_most):
        low = "" if at_least is None else f" >= {at_least}"
        high = "" if at_most is None else f"{' and' if low else ''} <= {at_most}"
        raise ValueError(f"{name} must be{low}{high}, got {value}")
    return value


def one_of(name: str, value: object, allowed: Collection[T]) -> T:
    """Return `value` if it is one of `allowed`.

    Args:
        name: Name of the argument, for the message.
        value: The value.
        allowed: The allowed values.

    Raises:
        ValueError: It is not one of them.
    """
    if value not in allowed:
        near = difflib.get_close_matches(str(value), map(str, allowed), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(
            f"{name} must be one of {', '.join(repr(a) for a in allowed)}, got {value!r}{hint}"
        )
    return cast(T, value)


def key(name: str, value: T) -> T:
    """Return `value` if it is a single random key of JAX.

    That is `jax.random.key(0)`, or the older uint32 array `jax.random.PRNGKey(0)`. Type and shape
    of a traced key are known, so it is checked, too.

    Args:
        name: Name of the argument, for the message.
        value: The value.

    Returns:
        `value`.

    Raises:
        TypeError: It is not a key, for example a whole number.
        ValueError: It is an array of several keys.

    >>> key("key", 0)
    Traceback (most recent call last):
    ...
    TypeError: key must be a random key such as jax.random.key(0), got int 0
    """
    import jax

    dtype, shape = (
        (value.dtype, value.shape) if isinstance(value, jax.Array | np.ndarray) else (None, ())
    )
    typed = dtype is not None and jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key)
    # keys of jax.random.PRNGKey: two numbers (threefry) or four (rbg)
    if not typed and (dtype != np.uint32 or shape[-1:] not in ((2,), (4,))):
        plain = value is None or isinstance(value, numbers.Number | str)
        got = f" {value!r}" if plain else f" {dtype} {shape}" if dtype is not None else ""
        expected = f"{name} must be a random key such as jax.random.key(0)"
        raise TypeError(f"{expected}, got {type(value).__name__}{got}")
    batch = shape if typed else shape[:-1]
    if batch:
        hint = "give one of them, or use jax.vmap"
        raise ValueError(f"{name} must be one random key, got keys of shape {batch}; {hint}")
    return value


def time_major(name: str, x: object, *, features: int | None = None, min_ndim: int = 3) -> None:
    """Raise unless `x` is a time-major array with the expected number of features.

    Args:
        name: Name of the argument, for the message.
        x: The value, of shape (time, batch, ...features).
        features: Expected size of the last axis, or None.
        min_ndim: Smallest number of axes.

    Raises:
        TypeError: It is not an array.
        ValueError: It has another shape, or no time steps.
    """
    if not isinstance(x, Shaped):
        raise TypeError(f"{name} must be an array (time, batch, features), got {type(x).__name__}")
    shape = x.shape
    if len(shape) < min_ndim:
        raise ValueError(f"{name} must have shape (time, batch, features), got {shape}")
    if shape[0] == 0:
        raise ValueError(f"{name} must have at least one time step, got shape {shape}")
    if features is not None and shape[-1] != features:
        raise ValueError(
            f"{name} must have {features} features on its last axis, got shape {shape}; arrays are "
            "time-major (time, batch, features)"
        )


def wide(dtype: DTypeLike) -> np.dtype:
    """Return `dtype`, but at least float32: the type of membranes, sums and random draws.

    16 bits are not enough for a membrane that decays by less than 1/256 per step, for a sum of many
    values, or for the tail of a distribution.

    >>> wide("bfloat16"), wide("float64")
    (dtype('float32'), dtype('float64'))
    """
    import jax

    return jax.numpy.promote_types(dtype, jax.numpy.float32)


def as_wide(x: jax.typing.ArrayLike) -> jax.Array:
    """Convert the array `x` to `wide` of its own dtype."""
    import jax

    return jax.numpy.asarray(x, wide(jax.numpy.result_type(x)))
