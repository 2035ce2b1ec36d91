r"""Inputs on their way to the neurons of a layer, for sequences and single steps.

Between time steps a line keeps what is still to arrive, a queue (batch, n, ...), n the largest
delay in steps: an input adds its own part to each entry, and the first entry leaves. What arrives
is inputs if units have delays (`UnitLine`), and their drive if connections have (`ConnectionLine`).
Each step is linear in its input and its queue, so that the gradient needs the inputs, but not the
queues.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from snnjax import _check
from snnjax._pytree import PyTree, pytree_dataclass, static
from snnjax._sparse import EventRaster, as_dense
from snnjax.dynamics._neuron import Memory, Recurrent, Weights
from snnjax.nn._delayed import Project, aligned, delayed, delayed_product
from snnjax.nn._delays import DelayKernel


class DelayedState(NamedTuple):
    """State of a layer with delays.

    Attributes:
        population: State of the neurons.
        coming: What is still to arrive of the input, (batch, n, ...); None if it has no delays.
        own: The same of the layer's own spikes.
    """

    population: Any
    coming: jax.Array | None
    own: PyTree


class Line(abc.ABC):
    """Inputs on their way to the neurons.

    Attributes:
        delay: Delays in steps.
        width: Width of the kernel in steps, a scalar.
        kernel: The kernel over steps.
        weighted: Whether inputs arrive as a drive, through the weights.
    """

    delay: jax.Array
    width: jax.Array
    kernel: DelayKernel
    weighted: ClassVar[bool] = False

    @abc.abstractmethod
    def taps(self) -> jax.Array:
        """The kernels, (n + 1, ...); with weights if `weighted`."""

    @abc.abstractmethod
    def arrivals(self, x: jax.Array | EventRaster) -> jax.Array:
        """What arrives at each step of a sequence that begins after silence."""

    @abc.abstractmethod
    def parts(self, taps: jax.Array, x: jax.Array) -> jax.Array:
        """What the input x (batch, ...) of one step brings at each delay, (batch, n + 1, ...)."""

    @abc.abstractmethod
    def heard(self, x: jax.Array) -> jax.Array:
        """The inputs (time, batch, ...) as they arrive before the weights, for measurements."""

    def empty(self, x: jax.ShapeDtypeStruct) -> jax.Array:
        """The queue after silence, for inputs of the shape of x (batch, ...)."""
        like = jax.eval_shape(self.parts, jax.eval_shape(self.taps), x)
        return jnp.zeros((like.shape[0], self.kernel.largest, *like.shape[2:]), x.dtype)

    def push(self, taps: jax.Array, queue: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Advance by one step.

        Args:
            taps: Of `taps()`.
            queue: What is still to arrive, (batch, n, ...).
            x: Input (batch, ...).

        Returns:
            The next queue, and what arrives now.
        """
        return _moved(queue, self.parts(taps, x.astype(queue.dtype)))

    def run(
        self, x: jax.Array | EventRaster, queue: jax.Array | None, *, at_once: bool = False
    ) -> tuple[jax.Array, jax.Array]:
        """Run a sequence.

        Args:
            x: Inputs (time, batch, ...).
            queue: What is still to arrive before the first step; None after silence.
            at_once: Whether to compute both results in one loop. Otherwise the queue costs nothing
                if it is not used.

        Returns:
            The queue after the last step, and the arrivals (time, batch, ...).
        """
        steps, n = len(x), self.kernel.largest
        edges = lambda a, before: ((before, n), *((0, 0),) * (a.ndim - 1))
        if at_once:
            x = as_dense(x)
            both = self.arrivals(jnp.pad(x, edges(x, 0)))
            now, after = both[:steps], both[steps:]
        else:
            now, last = self.arrivals(x), as_dense(x)[-n:]
            after = self.arrivals(jnp.pad(last, edges(last, n - len(last))))[n:]
        after = jnp.moveaxis(after, 0, 1)
        if queue is not None:
            within = min(len(now), n)
            now = now.at[:within].add(jnp.moveaxis(queue[:, :within], 1, 0))
            after = after.at[:, : n - within].add(queue[:, within:])
        return after, now


def _moved(queue: jax.Array, parts: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The next queue, and what arrives now, after an input has added its parts."""
    last = jnp.zeros((len(queue), 1, *queue.shape[2:]), queue.dtype)
    moved = jnp.concatenate([queue, last], axis=1) + parts
    return moved[:, 1:], moved[:, 0]


@jax.custom_vjp
def _push_units(taps: jax.Array, queue: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`push` of a `UnitLine`. Backward, XLA would sum over delays element by element.

    In a loop of 70 steps of 16 x 128 neurons with 25 delays on a CPU, both passes took 3.9 ms, and
    12 ms with the gradient of JAX.
    """
    return _moved(queue, jnp.moveaxis(aligned(taps, x.ndim + 1) * x, 0, 1))


def _push_units_fwd(
    taps: jax.Array, queue: jax.Array, x: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], tuple[jax.Array, jax.Array]]:
    return _push_units(taps, queue, x), (taps, x)


def _push_units_bwd(
    residuals: tuple[jax.Array, jax.Array], cotangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array, jax.Array]:
    taps, x = residuals
    g_queue, g_now = cotangents
    of_parts = jnp.concatenate([g_now[:, None], g_queue], axis=1)
    each = aligned(taps, x.ndim + 1)
    g_x = each[0] * g_now
    for k in range(1, len(taps)):
        g_x += each[k] * g_queue[:, k - 1]
    rest = tuple(a for a in range(of_parts.ndim - 1) if a != 1)
    return (of_parts * x[:, None]).sum(axis=rest), of_parts[:, :-1], g_x


_push_units.defvjp(_push_units_fwd, _push_units_bwd)


@pytree_dataclass
class UnitLine(Line):
    """One delay for each unit or channel; what arrives are inputs.

    >>> line = UnitLine(
    ...     delay=jnp.array([2.0]), width=jnp.zeros(()), kernel=DelayKernel("triangle", 3)
    ... )
    >>> after, now = line.run(jnp.array([1.0, 0.0, 0.0, 5.0]).reshape(4, 1, 1), None)
    >>> now.ravel().tolist(), after.ravel().tolist()
    ([0.0, 0.0, 1.0, 0.0], [0.0, 5.0, 0.0])
    """

    delay: jax.Array
    width: jax.Array
    kernel: DelayKernel = static()

    def taps(self) -> jax.Array:
        return self.kernel.taps(self.delay, self.width)

    def arrivals(self, x: jax.Array | EventRaster) -> jax.Array:
        return delayed(self.kernel, _check.as_wide(as_dense(x)), self.delay, self.width)

    def parts(self, taps: jax.Array, x: jax.Array) -> jax.Array:
        return jnp.moveaxis(aligned(taps, x.ndim + 1) * x, 0, 1)

    def push(self, taps: jax.Array, queue: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        return _push_units(taps.astype(queue.dtype), queue, x.astype(queue.dtype))

    def heard(self, x: jax.Array) -> jax.Array:
        return self.arrivals(x)


@pytree_dataclass
class ConnectionLine(Line):
    """One delay for each weight; what arrives is a drive.

    Attributes:
        weights: The weights, of the shape of `delay`, (*window, in, out).
        project: The linear map, `(inputs, weights) -> drive` for any number of outputs.
    """

    weighted = True

    delay: jax.Array
    width: jax.Array
    weights: jax.Array
    kernel: DelayKernel = static()
    project: Project = static()

    def taps(self) -> jax.Array:
        return (self.kernel.taps(self.delay, self.width) * self.weights).astype(self.weights.dtype)

    def arrivals(self, x: jax.Array | EventRaster) -> jax.Array:
        x = x if isinstance(x, EventRaster) else _check.as_wide(x)
        return delayed_product(self.kernel, self.project, x, self.delay, self.width, self.weights)

    def parts(self, taps: jax.Array, x: jax.Array) -> jax.Array:
        side_by_side = jnp.moveaxis(taps, 0, -2)
        side_by_side = side_by_side.reshape(*taps.shape[1:-1], -1)
        drive = self.project(x, side_by_side)
        return jnp.moveaxis(drive.reshape(*drive.shape[:-1], len(taps), -1), -2, 1)

    def heard(self, x: jax.Array) -> jax.Array:
        """Trial b hears its inputs as one neuron does, b modulo the number of neurons."""
        flat = self.delay.reshape(-1, *self.delay.shape[-2:])
        trial = np.arange(x.shape[1])
        delay = flat[trial % len(flat), :, trial % flat.shape[-1]]
        return delayed(self.kernel, _check.as_wide(x), delay, self.width)


@dataclasses.dataclass(frozen=True)
class DelayedSpikes(Memory):
    """The recurrence of a layer whose own spikes are delayed.

    Its weights are `OwnWeights`. A step uses the taps, which are computed once, and
    a sequence the delays, whose gradient is then the fast one.

    Attributes:
        recurrent: From the spikes that arrive, and the weights, to the drive; None if what arrives
            is the drive.
    """

    recurrent: Recurrent | None

    def step(self, z: jax.Array, weights: OwnWeights, queue: jax.Array) -> tuple[jax.Array, Any]:
        queue, arrived = weights.line.push(weights.taps, queue, z)
        return queue, self._drive(arrived, weights)

    def sequence(
        self, z: jax.Array, weights: OwnWeights, queue: jax.Array | None
    ) -> tuple[jax.Array, Any]:
        queue, arrived = weights.line.run(z, queue, at_once=True)
        return queue, self._drive(arrived, weights)

    def _drive(self, arrived: jax.Array, weights: OwnWeights) -> Any:
        return arrived if self.recurrent is None else self.recurrent(arrived, weights.recurrent)


class OwnWeights(NamedTuple):
    """Weights of `DelayedSpikes`.

    Attributes:
        line: The delays.
        taps: Of the line.
        recurrent: Weights of the recurrence; None if they are in the line.
    """

    line: Line
    taps: jax.Array
    recurrent: Weights
