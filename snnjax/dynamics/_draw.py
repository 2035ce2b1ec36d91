"""Parameters of neurons that are drawn from a distribution, one value per neuron."""

from __future__ import annotations

import dataclasses
import functools

import jax
from jax.typing import DTypeLike

from snnjax import _check
from snnjax._random import draw


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Uniform:
    """A uniform distribution, in place of the value of a neuron's parameter.

    A layer draws one value per neuron with its `rngs`, before it draws its weights: another seed
    draws other values. They are parameters of the layer, `drawn[name]`, which are saved and swept
    with the others. Training changes them only if `trainable` names the parameter, too. A neuron
    without a layer draws them with `Neuron.drawn`.

    Attributes:
        low: Lower end.
        high: Upper end, above `low`. Both ends must be in the range of the parameter.

    Raises:
        ValueError: `low` is not below `high`, or one is not finite.

    >>> from snnjax.dynamics import LIF
    >>> neuron = LIF(tau_mem=Uniform(5e-3, 25e-3)).drawn(jax.random.key(0), (128,))
    >>> neuron.tau_mem.shape, bool(neuron.tau_mem.min() > 5e-3), bool(neuron.tau_mem.max() < 25e-3)
    ((128,), True, True)
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        _check.number("low", self.low)
        _check.number("high", self.high, above=self.low)

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        """Return independent values between `low` and `high`."""
        between = functools.partial(jax.random.uniform, minval=self.low, maxval=self.high)
        return draw(between, key, shape, dtype)
