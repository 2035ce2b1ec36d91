r"""Batch normalization of the drive of spiking neurons, before the membrane.

With the drive d[t] = map(x[t], W) of a unit by the layer's input,

    y[t] = scale (d[t] - m) / sqrt(v + eps) + shift

The neuron gets y[t] and the drive by the layer's own spikes. m and v are mean and variance of the
unit's drive. In training they are those of the batch, over samples, time steps and positions, and
the running statistics follow them:

    mean     <- mean     + momentum (m - mean)
    variance <- variance + momentum (v - variance)

Otherwise, and in `step`, m and v are the running statistics.

With `num_steps`, every time step has its own m, v, scale and shift: statistics are over samples and
positions alone. Trials must then have this number of steps, and there is no `step`.

The start: a normalization starts as the identity, scale = sqrt(variance + eps) and shift = mean. So
the membranes have the mean and the sigma_u that the weights give them, whether these come from a
formula or from `calibrate`. The first statistics are those that are measured on the batch of
`calibrate`; before that, those of Poisson inputs at the rates nu of the initialization,

    mean = dt sum_j nu_j w_j        variance = dt sum_j nu_j w_j^2

and without known rates 0 and 1.

How the running statistics leave the gradient computation: the backward pass returns
momentum (mean - m) as the gradient of `mean`, whatever the loss (`recorded`). It is a mean over the
parts of a batch and over devices like any other gradient. `snnjax.training` subtracts it, without
the optimizer.

Source: Ioffe & Szegedy (2015), arXiv 1502.03167; for spiking neurons, over time, Zheng et al.
(2021), doi 10.1609/aaai.v35i12.17320; per time step, Kim & Panda (2021), doi
10.3389/fnins.2021.773954. The start is ours.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import ArrayLike, DTypeLike

from snnjax import _check

Moments = tuple[jax.Array, jax.Array]
"""Mean and variance of each unit's drive, (units,) or (num_steps, units)."""


class Statistics(nnx.Param):
    """Running statistics of one layer.

    They are a subclass of `nnx.Param`, so that they are saved, restored, swept and resumed with the
    network's other parameters. `snnjax.training` adds minus their gradient, which is the change
    that a batch makes, and keeps them from the optimizer.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchNorm:
    """Options of the batch normalization of a layer's drive.

    The drive of each unit by the layer's input is normalized with its mean and variance, in
    training those of the batch, else the running statistics. It is then scaled and shifted by
    trained parameters, which start so that nothing changes.

    Attributes:
        momentum: Share of each new batch in the running statistics, in (0, 1].
        eps: Number that is added to the variance, > 0.
        num_steps: Number of time steps of every trial, which then have statistics and parameters of
            their own. None: all steps share them.

    Raises:
        ValueError: A value is out of range.
        TypeError: A value has the wrong type.

    >>> from snnjax.nn import FluctuationDriven, SpikingDense
    >>> options = {"init": FluctuationDriven(nu=5.0), "norm": BatchNorm(), "rngs": nnx.Rngs(0)}
    >>> layer = SpikingDense(20, 128, **options)
    >>> x = jnp.ones((100, 4, 20))
    >>> layer.drive(x).shape, layer.norm.scale.shape
    ((100, 4, 128), (128,))
    """

    momentum: float = 0.1
    eps: float = 1e-5
    num_steps: int | None = None

    def __post_init__(self) -> None:
        _check.number("momentum", self.momentum, above=0, at_most=1)
        _check.number("eps", self.eps, above=0)
        if self.num_steps is not None:
            _check.integer("num_steps", self.num_steps, at_least=1)


class Normalization(nnx.Module):
    """The parameters and statistics of the normalization of one layer.

    Args:
        options: The options.
        units: Number of units.
        dtype: Data type of the parameters.
        axes: Number of axes of positions, of one feature map.

    Attributes:
        options: The options.
        scale: Standard deviation of the normalized drive, (units,) or (num_steps, units).
        shift: Mean of the normalized drive, likewise.
        mean: Running mean of the drive, likewise.
        variance: Running variance of the drive, likewise.
    """

    def __init__(self, options: BatchNorm, units: int, dtype: DTypeLike, *, axes: int = 0) -> None:
        self.options, self.axes = options, axes
        zeros = jnp.zeros((units,) if options.num_steps is None else (options.num_steps, units))
        self.scale, self.shift = (nnx.Param(zeros.astype(dtype)) for _ in range(2))
        self.mean, self.variance = (Statistics(zeros.astype(dtype)) for _ in range(2))
        self.start(0.0, 1.0)

    def start(self, mean: ArrayLike, variance: ArrayLike) -> None:
        """Make the normalization the identity, with these statistics.

        Args:
            mean: Mean of the drive, one number, (units,) or (num_steps, units).
            variance: Variance of the drive, likewise.
        """
        scale = jnp.sqrt(jnp.asarray(variance) + self.options.eps)
        pairs = [(self.mean, mean), (self.variance, variance), (self.scale, scale)]
        for param, value in [*pairs, (self.shift, mean)]:
            param[...] = jnp.broadcast_to(jnp.asarray(value, param.dtype), param.shape)

    def linear(self) -> tuple[jax.Array, jax.Array]:
        """The normalization outside training, y = factor d + constant: factor and constant.

        Both have the shape of the parameters.
        """
        # without a batch the statistics are constants, which nothing trains
        mean, variance = map(jax.lax.stop_gradient, (self.mean[...], self.variance[...]))
        factor = self.scale[...] / jnp.sqrt(variance + self.options.eps)
        return factor, self.shift[...] - mean * factor

    def __call__(self, drive: jax.Array, *, training: bool) -> jax.Array:
        """Normalize a drive.

        Args:
            drive: Drive of all steps (time, batch, *positions, units); outside training also of one
                step.
            training: Whether to use the statistics of the batch, and to record them.

        Returns:
            The normalized drive.

        Raises:
            ValueError: `training` with a batch of one sample, or a drive without `num_steps` steps.
        """
        self._check_steps(drive)
        if not training:
            factor, constant = map(self._spread, self.linear())
            return drive * factor + constant
        if drive.shape[1] < 2:
            raise ValueError(
                "batch_size (and micro_batch, if it is given) must be at least 2 in training with "
                f"batch normalization, got {drive.shape[1]}; one sample is no batch"
            )
        mean, variance = batch = self.statistics(drive)
        factor = self.scale[...] / jnp.sqrt(variance + self.options.eps)
        out = (drive - self._spread(mean)) * self._spread(factor) + self._spread(self.shift[...])
        return recorded(self.options.momentum, out, (self.mean[...], self.variance[...]), batch)

    def statistics(self, drive: jax.Array) -> Moments:
        """Mean and variance of a drive (time, batch, *positions, units), with their own shape."""
        axes = tuple(range(0 if self.options.num_steps is None else 1, drive.ndim - 1))
        return drive.mean(axis=axes), drive.var(axis=axes)

    def _spread(self, a: jax.Array) -> jax.Array:
        """Parameters or statistics in a shape that fits a drive."""
        return a if a.ndim == 1 else a.reshape(len(a), *(1,) * (1 + self.axes), -1)

    def _check_steps(self, drive: jax.Array) -> None:
        if (steps := self.options.num_steps) is None:
            return
        needed = f"trials must have {steps} steps with BatchNorm(num_steps={steps})"
        if drive.ndim < 3 + self.axes:
            raise ValueError(f"{needed}, got a single step; leave num_steps out to use `step`")
        if len(drive) != steps:
            raise ValueError(f"{needed}, got {len(drive)}")


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def recorded(momentum: float, out: jax.Array, running: Moments, batch: Moments) -> jax.Array:
    """Return `out`. The gradient of `running` is momentum (running - batch), whatever the loss.

    Args:
        momentum: Share of the batch in the running statistics.
        out: The normalized drive.
        running: Running statistics.
        batch: Statistics of the batch.

    Returns:
        `out`.

    >>> one, batch = jnp.ones(2), (jnp.array([0.0, 3.0]), jnp.ones(2))
    >>> f = lambda running: 7 * recorded(0.1, one, running, batch).sum()
    >>> [g.round(3).tolist() for g in jax.grad(f)((one, one))]
    [[0.10000000149011612, -0.20000000298023224], [0.0, 0.0]]
    """
    return out


def _forward(
    momentum: float, out: jax.Array, running: Moments, batch: Moments
) -> tuple[jax.Array, tuple[Moments, Moments]]:
    return out, (running, batch)


def _backward(
    momentum: float, kept: tuple[Moments, Moments], g: jax.Array
) -> tuple[jax.Array, Moments, Moments]:
    running, batch = kept
    change = jax.tree.map(lambda old, new: momentum * (old - new), running, batch)
    return g, change, jax.tree.map(jnp.zeros_like, batch)


recorded.defvjp(_forward, _backward)
