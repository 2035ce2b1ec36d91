"""Linear maps from a layer's input to its neurons: sizes and geometry, without weights.

A spiking layer combines a map (dense or a convolution) with a population (plain, or with Dale's
law). The layer has the weights and passes them to the map.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from snnjax import _check
from snnjax._sparse import EventRaster, dense_dot, events_dot
from snnjax.nn._layer import Shape

Recurrence = Callable[[jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class LinearMap(abc.ABC):
    """A linear map (..., *spatial, in_features) -> (..., *spatial', n) through weights.

    To define your own map, derive a frozen dataclass whose fields are numbers and tuples, and give
    it to `Spiking`. Its method `project` must be linear in the input and in the weights. It may
    leave weights out, but it must not scale them: initializers and calibration count the weights
    that it uses (`connected`).

    Attributes:
        in_features: Number of input features or channels.
        out_features: Number of output features or channels that the layer above receives.
        window: Size of the receptive field of one neuron in positions, the first axes of the
            weights; () without spatial axes.
        takes_events: Whether `project` also accepts an `EventRaster`, spikes as lists of events.

    >>> import jax.numpy as jnp
    >>> import numpy as np
    >>> from flax import nnx
    >>> from snnjax.nn import FluctuationDriven, Spiking
    >>> @dataclasses.dataclass(frozen=True)
    ... class Ring(LinearMap):
    ...     '''Each neuron sees the inputs at a distance of at most `reach` on a ring.'''
    ...
    ...     reach: int = 3
    ...
    ...     def project(self, x, kernel):
    ...         n = self.in_features
    ...         apart = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    ...         return x @ jnp.where(np.minimum(apart, n - apart) <= self.reach, kernel, 0)
    >>> init = FluctuationDriven(nu=50.0)
    >>> layer = Spiking(Ring(40, 40), recurrent=Ring(40, 40, reach=1), init=init, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((100, 4, 40))).output.shape, layer.recurrent_kernel.shape
    ((100, 4, 40), (40, 40))
    """

    in_features: int
    out_features: int

    takes_events: ClassVar[bool] = False

    def __post_init__(self) -> None:
        _check.integer("in_features", self.in_features, at_least=1)
        _check.integer("out_features", self.out_features, at_least=1)

    @property
    def window(self) -> tuple[int, ...]:
        return ()

    @abc.abstractmethod
    def project(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Apply the map.

        Args:
            x: Inputs (..., *spatial, in_features), of one time step or all of them.
            kernel: Weights (*window, in_features, n), for any n.

        Returns:
            The drive (..., *spatial', n).
        """

    @property
    def connected(self) -> np.ndarray | None:
        """Which weights the map uses, (in_features, out_features); None: all of them.

        Raises:
            ValueError: `project` multiplies weights by other factors than 0 and 1.
        """
        return _connected(self)

    @property
    def density(self) -> float:
        """Fraction of the weights that the map uses."""
        return 1.0 if self.connected is None else float(self.connected.mean())

    def out_shape(self, spatial: Shape) -> Shape:
        """Spatial sizes of the output.

        Args:
            spatial: Spatial sizes of the input; None is an unknown size.

        Returns:
            One size per axis; None where the input's is None.

        Raises:
            ValueError: The map cannot take an input of this size.
        """
        return spatial

    @property
    def recurrence(self) -> Recurrence:
        """The map of a layer's own spikes, `(z, weights) -> drive`.

        It is the same function object at each call, so that jit does not compile it again.
        """
        return _recurrence(self)


@functools.cache
def _recurrence(map: LinearMap) -> Recurrence:
    return lambda z, weights: map.project(z, weights)


@functools.cache
def _connected(map: LinearMap) -> np.ndarray | None:
    """Measure which weights `project` uses: the derivative of the drive by each weight."""
    if map.window:
        return None  # a convolution uses all weights, except at the borders
    with jax.ensure_compile_time_eval():  # layers may be built under jit and vmap
        x, ones = jnp.ones((1, map.in_features)), jnp.ones((map.in_features, map.out_features))
        drive, back = jax.vjp(lambda kernel: map.project(x, kernel), ones)
        factors = np.asarray(back(jnp.ones_like(drive))[0])
    used = factors == 1
    if not (used | (factors == 0)).all():
        wrong = factors[~used & (factors != 0)][0]
        needed = "project must use each weight as it is or leave it out"
        hint = "put constant factors into the weights"
        raise ValueError(f"{needed}, got a weight multiplied by {wrong:g} in {map}; {hint}")
    return None if used.all() else used


def dense_recurrence(z: jax.Array, weights: jax.Array) -> jax.Array:
    """Return z @ V for spikes z (batch, n) and weights V (n, n), sender by receiver."""
    return z @ weights


@dataclasses.dataclass(frozen=True)
class DenseMap(LinearMap):
    """All-to-all connections, x @ kernel, computed in at least float32.

    >>> import jax.numpy as jnp
    >>> DenseMap(20, 128).project(jnp.ones((100, 4, 20)), jnp.ones((20, 128))).shape
    (100, 4, 128)
    """

    takes_events = True

    @property
    def connected(self) -> None:
        return None

    def project(self, x: jax.Array | EventRaster, kernel: jax.Array) -> jax.Array:
        return events_dot(x, kernel) if isinstance(x, EventRaster) else dense_dot(x, kernel)

    @property
    def recurrence(self) -> Recurrence:
        return dense_recurrence
