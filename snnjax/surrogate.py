r"""Spike functions: a step forward, a surrogate derivative backward.

    z = 1 if v > 0 else 0,    v = u - theta                 dz/dv := h(v), one of

    superspike      1 / (beta |v| + 1)^2                    doi 10.1162/neco_a_01086
      rescaled      times (beta theta + 1)^2                h(-theta) = 1, at rest (u = 0)
      asymptotic    times beta                              its integral tends to the step
    fast_sigmoid    1 / (slope |v| + 1)^2                   superspike under its other name
    atan            (alpha/2) / (1 + (pi alpha v / 2)^2)    arXiv 2007.05785
    triangular      height max(0, 1 - |v| / width)          doi 10.1073/pnas.1604850113
    sigmoid         beta s (1 - s), s = 1 / (1 + exp(-beta v))

Sources: Zenke & Ganguli (2018), superspike; Fang et al. (2021), atan; Esser et al. (2016),
triangular.

Each factory returns a `SpikeFunction`. It is callable, its structure is hashable, and it is a
pytree whose leaves are its steepness, so an ensemble can vmap over beta. Every h is finite for
every finite v in float32 and bfloat16: products may overflow to inf only under a division, which
gives 0.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from snnjax import _check
from snnjax._check import Scalar
from snnjax._pytree import pytree_dataclass, static

__all__ = [
    "SpikeFunction",
    "superspike",
    "superspike_rescaled",
    "superspike_asymptotic",
    "fast_sigmoid",
    "atan",
    "triangular",
    "sigmoid",
]

Derivative = Callable[..., jax.Array]
_SpikeArguments = tuple[jax.Array, tuple[jax.Array, ...]]
"""v, and the parameters of the derivative."""


# The default path of layers bypasses this function: a LIF with constant parameters uses the same
# comparison and derivative in `dynamics/_lif_vjp.py`. This is a rule for tangents, not for
# cotangents: JAX transposes it, so that forward mode, reverse mode and mixtures of both work.
@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _spike(derivative: Derivative, v: jax.Array, params: tuple[jax.Array, ...]) -> jax.Array:
    return (v > 0).astype(v.dtype)


@_spike.defjvp
def _spike_jvp(
    derivative: Derivative, primals: _SpikeArguments, tangents: _SpikeArguments
) -> tuple[jax.Array, jax.Array]:
    (v, params), (dv, _) = primals, tangents
    return _spike(derivative, v, params), dv * derivative(v, *params).astype(dv.dtype)


@pytree_dataclass
class SpikeFunction:
    """A step with a surrogate derivative.

    `spike(v)` is 1 where v = u - theta > 0 and 0 elsewhere, in the shape and dtype of v. Its
    gradient is `spike.derivative(v)`.

    Attributes:
        steepness: Parameters of `function`, traced or not. Their gradient is zero.
        function: The surrogate derivative, `(v, *steepness) -> h(v)`, any pure function.
        name: Name for printing.
        elementwise: Whether each element of h(v) depends on the same element of v alone. If so,
            GPUs compute the backward pass of layers without recurrence in one kernel.
    """

    steepness: tuple[Scalar, ...]
    function: Derivative = static()
    name: str = static(default="custom")
    elementwise: bool = static(default=False)

    def __call__(self, v: jax.Array) -> jax.Array:
        """Return spikes z = 1 if v > 0, else 0, in the dtype of v = u - theta.

        In the backward pass dz/dv is the surrogate derivative.
        """
        v = jnp.asarray(v)
        return _spike(self.function, v, tuple(jnp.asarray(p, v.dtype) for p in self.steepness))

    def derivative(self, v: jax.Array) -> jax.Array:
        """h(v), the surrogate derivative, in v's dtype."""
        v = jnp.asarray(v)
        return self.function(v, *self.steepness).astype(v.dtype)

    def with_steepness(self, steepness: Sequence[Scalar]) -> SpikeFunction:
        """The same function with other parameters.

        Args:
            steepness: One number for each of `self.steepness`, traced or not.

        Returns:
            A new `SpikeFunction`.

        Raises:
            ValueError: Another number of parameters.

        >>> superspike(20.0).with_steepness([5.0]).steepness
        (5.0,)
        """
        if len(steepness) != len(self.steepness):
            needed = f"{len(self.steepness)} parameters, as {self.name} has"
            raise ValueError(f"steepness must hold {needed}, got {len(steepness)}")
        return dataclasses.replace(self, steepness=tuple(steepness))

    def scaled(self, by: Scalar = 1.0) -> SpikeFunction:
        """The same function with its derivative times `by`, which becomes the last of `steepness`.

        Args:
            by: The factor, traced or not.

        Returns:
            A new `SpikeFunction`.

        >>> f"{superspike(20.0).scaled(3.0).derivative(jnp.asarray(0.0)):.1f}"
        '3.0'
        """
        steepness = (*self.steepness, _check.number("by", by, above=0))
        return dataclasses.replace(self, steepness=steepness, function=_Scaled(self.function))

    @property
    def has_scale(self) -> bool:
        """Whether the last of `steepness` is a factor of the derivative, added by `scaled`."""
        return isinstance(self.function, _Scaled)


@dataclasses.dataclass(frozen=True)
class _Scaled:
    """A derivative times a number, which is its last parameter."""

    function: Derivative

    def __call__(self, v: jax.Array, *parameters: Scalar) -> jax.Array:
        *steepness, scale = parameters
        return jnp.multiply(scale, self.function(v, *steepness))


def _superspike(v: jax.Array, beta: Scalar) -> jax.Array:
    return 1 / jnp.square(beta * jnp.abs(v) + 1)


def _asymptotic(v: jax.Array, beta: Scalar) -> jax.Array:
    return jnp.divide(beta, jnp.square(beta * jnp.abs(v) + 1))


def _rescaled(v: jax.Array, beta: Scalar, theta: Scalar) -> jax.Array:
    # the ratio is squared, not the two terms: neither overflows before the other
    return jnp.square((beta * theta + 1) / (beta * jnp.abs(v) + 1))


def _atan(v: jax.Array, alpha: Scalar) -> jax.Array:
    return jnp.divide(alpha / 2, 1 + jnp.square(jnp.pi / 2 * alpha * v))


def _triangular(v: jax.Array, width: Scalar, height: Scalar) -> jax.Array:
    return jnp.multiply(height, jnp.maximum(0, 1 - jnp.abs(v) / width))


def _sigmoid(v: jax.Array, beta: Scalar) -> jax.Array:
    s = jax.nn.sigmoid(beta * v)
    return jnp.multiply(beta, s) * (1 - s)


def _named(name: str, function: Derivative, **steepness: Scalar) -> SpikeFunction:
    """Return an elementwise surrogate whose parameters must be positive."""
    checked = tuple(_check.number(key, value, above=0) for key, value in steepness.items())
    return SpikeFunction(steepness=checked, function=function, name=name, elementwise=True)


def superspike(beta: Scalar = 20.0) -> SpikeFunction:
    """Return SuperSpike, h = 1 / (beta |v| + 1)^2.

    At rest (v = -1, beta = 20), h is 1/21^2 = 0.00227.

    Args:
        beta: Steepness, > 0.

    Returns:
        The spike function.

    >>> import jax, jax.numpy as jnp
    >>> spike = superspike(beta=20.0)
    >>> spike(jnp.array([-0.5, 0.0, 0.5])).tolist()
    [0.0, 0.0, 1.0]
    >>> f"{jax.grad(spike)(-1.0):.5f}"
    '0.00227'
    """
    return _named("superspike", _superspike, beta=beta)


def superspike_rescaled(beta: Scalar = 20.0, *, theta: Scalar = 1.0) -> SpikeFunction:
    """Return SuperSpike divided by its value at rest, so that h(-theta) = 1.

    It lets silent networks learn, but their gradients explode when they spike (supplement S8 of
    the paper).

    Args:
        beta: Steepness, > 0.
        theta: Firing threshold, > 0.

    Returns:
        The spike function.

    >>> f"{superspike_rescaled().derivative(jnp.asarray(-1.0)):.1f}"
    '1.0'
    """
    return _named("superspike_rescaled", _rescaled, beta=beta, theta=theta)


def superspike_asymptotic(beta: Scalar = 20.0) -> SpikeFunction:
    """Return SuperSpike times beta, h = beta / (beta |v| + 1)^2, so that h(0) = beta.

    Args:
        beta: Steepness, > 0.

    Returns:
        The spike function.

    >>> f"{superspike_asymptotic(20.0).derivative(jnp.asarray(0.0)):.1f}"
    '20.0'
    """
    return _named("superspike_asymptotic", _asymptotic, beta=beta)


def fast_sigmoid(slope: Scalar = 25.0) -> SpikeFunction:
    """Return the spike function with h = 1 / (slope |v| + 1)^2, as in snnTorch.

    h is the derivative of v / (1 + slope |v|). This is `superspike` with the name and the default
    steepness of snnTorch.

    Args:
        slope: Steepness, > 0.

    Returns:
        The spike function.

    >>> f"{fast_sigmoid(25.0).derivative(jnp.asarray(0.04)):.2f}"
    '0.25'
    """
    return _named("fast_sigmoid", _superspike, slope=slope)


def atan(alpha: Scalar = 2.0) -> SpikeFunction:
    """Return the spike function with h = (alpha/2) / (1 + (pi alpha v / 2)^2).

    Args:
        alpha: Steepness, > 0.

    Returns:
        The spike function.

    >>> f"{atan(2.0).derivative(jnp.asarray(0.0)):.1f}"
    '1.0'
    """
    return _named("atan", _atan, alpha=alpha)


def triangular(width: Scalar = 1.0, *, height: Scalar = 1.0) -> SpikeFunction:
    """Return the spike function with h = height max(0, 1 - |v| / width).

    It is exactly 0 beyond `width`: a neuron that is further from its threshold gets no gradient.

    Args:
        width: Distance from the threshold at which h becomes 0, > 0.
        height: h at the threshold, > 0.

    Returns:
        The spike function.

    >>> triangular().derivative(jnp.array([-2.0, -0.5, 0.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    return _named("triangular", _triangular, width=width, height=height)


def sigmoid(beta: Scalar = 4.0) -> SpikeFunction:
    """Return the spike function with h = beta s (1 - s), s = 1 / (1 + exp(-beta v)).

    Args:
        beta: Steepness, > 0.

    Returns:
        The spike function.

    >>> f"{sigmoid(4.0).derivative(jnp.asarray(0.0)):.1f}"
    '1.0'
    """
    return _named("sigmoid", _sigmoid, beta=beta)
