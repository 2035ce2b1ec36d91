r"""Learned delays: kernels over time steps between a layer's inputs and its neurons.

A spike with a delay of d steps arrives through a kernel K over the steps k = 0 ... n:

    y[t] = sum_k K(k - d) x[t - k]

    triangle    K(s) = max(0, 1 + width - |s|) / c
    gaussian    K(s) = exp(-s^2 / (2 width^2)) / c

n is the largest delay in steps, and c gives each kernel the sum 1: a spike brings the same charge
at every delay and width. If 1 + width is a whole number and the kernel is not cut off at k = 0 or
k = n, c of the triangle is (1 + width)^2. With width 0, a triangle divides a spike between the two
nearest steps (linear interpolation), and a Gaussian brings it at the nearest step.

`snnjax/nn/_delayed.py` applies kernels to sequences, and `snnjax/nn/_delay_lines.py` to single
steps and to a layer's own spikes.

Sources: I. Hammouamri et al. (2024), arXiv 2306.17670 (delays of connections, Gaussian kernels);
DelRec (2025), arXiv 2509.24852 (delays of a layer's own spikes, triangles).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, TypeVar, get_args

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from snnjax import _check
from snnjax._check import Scalar
from snnjax._random import draw
from snnjax.nn._neuron_layer import Fixed

Params = TypeVar("Params")
Schedule = Callable[[Any], Any]
"""A function of the number of updates, such as those of optax."""
Per = Literal["unit", "connection"]
On = Literal["input", "recurrent", "all"]
KernelShape = Literal["triangle", "gaussian"]
NARROWEST = 0.02
"""Smallest width of a Gaussian in steps. A neighbouring step then has the weight 0 exactly."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Delays:
    """Learned delays of a layer, its argument `delays`.

    The layer gets the parameter `delay` and, for its own spikes, `recurrent_delay`. They are
    fractions of the largest delay, so that one learning rate suits every `max_delay`; values
    outside of [0, 1] count as 0 or 1. `layer.delay_times()` gives them in seconds.

    Attributes:
        max_delay: Largest delay, s. It is rounded down to whole time steps.
        per: "unit": one delay for each input unit (or channel). "connection": one for each weight;
            the drive then takes one product for each step of the largest delay.
        on: What is delayed: the layer's "input", its own spikes ("recurrent"), or both ("all").
        shape: Kernel over time steps, "triangle" or "gaussian".
        width: Width of the kernel, s: a number, or a schedule of the number of updates, such as
            `optax.linear_schedule(0.1, 0.0, 1000)`, which training follows. A wide kernel lets a
            delay learn from inputs at other delays; at width 0 (triangle) it learns from the two
            nearest steps.
        initial: Initial delays, s: a number, or an array with the shape of the delays. None:
            uniformly distributed from 0 to the largest delay.

    Raises:
        ValueError: A value is out of range.
        TypeError: A value has the wrong type.

    >>> from flax import nnx
    >>> from snnjax.nn import FluctuationDriven, SpikingDense
    >>> delays = Delays(max_delay=0.1, initial=0.03)
    >>> init = FluctuationDriven(nu=5.0)
    >>> layer = SpikingDense(20, 8, init=init, delays=delays, rngs=nnx.Rngs(0))
    >>> layer.delay.shape, f"{layer.delay_times()['delay'][0]:.3f}"
    ((20,), '0.030')
    """

    max_delay: float
    per: Per = "unit"
    on: On = "all"
    shape: KernelShape = "triangle"
    width: float | Schedule = 0.0
    initial: Scalar | None = None

    def __post_init__(self) -> None:
        _check.number("max_delay", self.max_delay, above=0, unit="s")
        _check.hint_seconds("max_delay", self.max_delay)
        _check.one_of("per", self.per, get_args(Per))
        _check.one_of("on", self.on, get_args(On))
        _check.one_of("shape", self.shape, get_args(KernelShape))
        if not callable(self.width):
            _check.number("width", self.width, at_least=0, unit="s")
            if self.width > self.max_delay:
                longer = f"width = {self.width:g} s is longer than max_delay = {self.max_delay:g} s"
                _check.warn(f"{longer}; it is in seconds, and not in time steps")
        if self.initial is not None:
            _check.number("initial", self.initial, at_least=0, at_most=self.max_delay, unit="s")

    def kernel(self, dt: float) -> DelayKernel:
        """The kernel over time steps.

        Args:
            dt: Time step, s.

        Raises:
            ValueError: The largest delay is shorter than a time step.
        """
        if (largest := int(round(self.max_delay / dt, 9))) < 1:
            needed = f"max_delay must be at least the time step dt = {dt:g} s"
            raise ValueError(f"{needed}, got {self.max_delay:g}; leave delays out for none")
        return DelayKernel(self.shape, largest)

    def draw(self, key: jax.Array, shape: tuple[int, ...], largest: float) -> jax.Array:
        """Initial delays as fractions of the largest delay.

        Args:
            key: Random key.
            shape: Shape of the delays.
            largest: The largest delay, s, after rounding down.

        Raises:
            ValueError: `initial` does not have the shape of the delays.
        """
        if self.initial is None:
            return draw(jax.random.uniform, key, shape, float)
        if jnp.ndim(self.initial) and jnp.shape(self.initial) != shape:
            needed = f"initial must be one delay, or have the shape {shape} of the delays"
            raise ValueError(f"{needed}, got shape {jnp.shape(self.initial)}")
        return jnp.broadcast_to(jnp.asarray(self.initial, jnp.float32) / largest, shape)

    def first_width(self) -> ArrayLike:
        """Width before training, s."""
        return self.width(0) if callable(self.width) else self.width

    @property
    def schedule(self) -> Schedule | None:
        """The schedule of the width; None if it is constant."""
        return self.width if callable(self.width) else None


@dataclasses.dataclass(frozen=True)
class DelayKernel:
    """A kernel over time steps.

    Attributes:
        shape: "triangle" or "gaussian".
        largest: The largest delay in steps, n.
    """

    shape: KernelShape
    largest: int

    def taps(self, delay: jax.Array, width: ArrayLike) -> jax.Array:
        """The kernels K(k - d), of sum 1 over k.

        Args:
            delay: Delays in steps, from 0 to n.
            width: Width in steps.

        Returns:
            The kernels, (n + 1, *delay.shape).

        >>> DelayKernel("triangle", 3).taps(jnp.array([0.0, 1.25]), 0.0).T.tolist()
        [[1.0, 0.0, 0.0, 0.0], [0.0, 0.75, 0.25, 0.0]]
        """
        k = jnp.arange(self.largest + 1).reshape(-1, *(1,) * jnp.ndim(delay))
        return self.height(k, delay, width) / self.total(delay, width)

    def height(self, k: ArrayLike, delay: jax.Array, width: ArrayLike) -> jax.Array:
        """K(k - d) c."""
        s = k - delay
        if self.shape == "triangle":
            return jnp.maximum(0, 1 + width - jnp.abs(s))
        # relative to the nearest step, where a narrow Gaussian would also be 0
        nearest = jnp.square(delay - jax.lax.stop_gradient(jnp.round(delay)))
        return jnp.exp((nearest - jnp.square(s)) / (2 * jnp.square(jnp.maximum(width, NARROWEST))))

    def total(self, delay: jax.Array, width: ArrayLike) -> jax.Array:
        """c, of the shape of the delays."""
        k = jnp.arange(self.largest + 1).reshape(-1, *(1,) * jnp.ndim(delay))
        return self.height(k, delay, width).sum(axis=0)


@jax.custom_vjp
def within(fraction: jax.Array) -> jax.Array:
    """Clip to [0, 1]. A gradient that would lead further outside is zero.

    A clipped value thus comes back as soon as its gradient points inside, whatever the optimizer.

    >>> fraction = jnp.array([-0.5, 0.25, 1.5])
    >>> within(fraction).tolist(), jax.grad(lambda f: within(f).sum())(fraction).tolist()
    ([0.0, 0.25, 1.0], [0.0, 1.0, 1.0])
    """
    return jnp.clip(fraction, 0, 1)


def _within_bwd(fraction: jax.Array, g: jax.Array) -> tuple[jax.Array]:
    outside = ((fraction < 0) & (g > 0)) | ((fraction > 1) & (g < 0))
    return (jnp.where(outside, 0, g),)


within.defvjp(lambda fraction: (within(fraction), fraction), _within_bwd)


class DelayWidth(Fixed):
    """Width of the kernels of a layer's delays, s. Training sets it to its `schedule`."""


def follow_schedules(params: Params, updates: ArrayLike) -> Params:
    """Set the widths of delays that have a schedule.

    Args:
        params: A pytree of parameters.
        updates: Number of updates so far.

    Returns:
        The parameters with these widths.

    >>> import optax
    >>> from flax import nnx
    >>> width = DelayWidth(jnp.array(0.1), schedule=optax.linear_schedule(0.1, 0.0, 10))
    >>> f"{follow_schedules({'width': width}, 5)['width'][...]:.2f}"
    '0.05'
    """

    def at(leaf: Any) -> Any:
        if not isinstance(leaf, DelayWidth) or leaf.schedule is None:
            return leaf
        return leaf.replace(jnp.asarray(leaf.schedule(updates), leaf.dtype))

    return jax.tree.map(at, params, is_leaf=lambda leaf: isinstance(leaf, DelayWidth))
