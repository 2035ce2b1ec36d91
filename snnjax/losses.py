r"""Losses on the readout trace o (time, batch, classes). Each returns one value a sample, (batch,), as in optax; training takes the mean.

A trace becomes logits (batch, classes) in one of three ways:

    max_over_time    o[t*] at the step t* where the class's trace is largest; of several equal maxima the first carries the gradient
    sum_over_time    dt-free sum over steps
    last_step        o at the last step

and the loss is the softmax cross-entropy of the logits. `mean_square` compares the whole trace with a target.
Max over time: Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb, section 4.2.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from snnjax import _check

Logits = Callable[[jax.Array], jax.Array]


def max_over_time(readout: jax.Array) -> jax.Array:
    """(time, batch, classes) -> (batch, classes), the largest value of each trace.

    >>> max_over_time(jnp.array([[[0.0, 1.0]], [[2.0, -1.0]]])).tolist()
    [[2.0, 1.0]]
    """
    _check.time_major("readout", readout)
    # jnp.max would share the gradient among equal maxima, which are common while a readout is still flat at its initial value
    return jnp.take_along_axis(readout, jnp.argmax(readout, axis=0)[None], axis=0)[0]


def sum_over_time(readout: jax.Array) -> jax.Array:
    """(time, batch, classes) -> (batch, classes), the sum over steps."""
    _check.time_major("readout", readout)
    return readout.sum(axis=0)


def last_step(readout: jax.Array) -> jax.Array:
    """(time, batch, classes) -> (batch, classes), the last step."""
    _check.time_major("readout", readout)
    return readout[-1]


def cross_entropy(readout: jax.Array, labels: jax.Array, *, logits: Logits = max_over_time) -> jax.Array:
    """Softmax cross-entropy of each sample, (batch,).

    Args:
      readout: (time, batch, classes).   labels: integers (batch,).   logits: `max_over_time`, `sum_over_time`, `last_step` or your own.

    Raises:
      ValueError: shapes do not match.   TypeError: labels are not integers.

    >>> [f"{v:.4f}" for v in cross_entropy(jnp.zeros((5, 2, 10)), jnp.array([3, 7]))]
    ['2.3026', '2.3026']
    """
    _check_labels(readout, labels)
    return optax.softmax_cross_entropy_with_integer_labels(logits(readout), labels)


def mean_square(readout: jax.Array, target: jax.Array) -> jax.Array:
    """Mean over time and classes of (o - target)^2, (batch,).

    Args:
      readout: (time, batch, classes).
      target: a trace (time, batch, classes), or integer labels (batch,), which stand for a constant 1 in their class and 0 in the others.

    >>> [f"{v:.2f}" for v in mean_square(jnp.zeros((5, 2, 10)), jnp.array([3, 7]))]
    ['0.10', '0.10']
    """
    _check.time_major("readout", readout)
    if jnp.ndim(target) == 1:
        _check_labels(readout, target)
        target = jax.nn.one_hot(target, readout.shape[-1], dtype=readout.dtype)[None]
    elif jnp.shape(target) != readout.shape:
        raise ValueError(f"target must have the readout's shape {readout.shape} or be labels (batch,), got {jnp.shape(target)}")
    return jnp.mean(jnp.square(readout - target), axis=(0, 2))


def correct(readout: jax.Array, labels: jax.Array, *, logits: Logits = max_over_time) -> jax.Array:
    """Whether the largest logit is the label's, booleans (batch,); never where a logit is NaN.

    >>> correct(jnp.array([[[0.0, 1.0], [1.0, 0.0]]]), jnp.array([1, 1])).tolist()
    [True, False]
    """
    _check_labels(readout, labels)
    scores = logits(readout)
    return (jnp.argmax(scores, axis=-1) == labels) & ~jnp.isnan(scores).any(axis=-1)


def _check_labels(readout: jax.Array, labels: jax.Array) -> None:
    _check.time_major("readout", readout)
    if not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        raise TypeError(f"labels must be integers, got {jnp.result_type(labels)}")
    if jnp.shape(labels) != (readout.shape[1],):
        raise ValueError(
            f"labels must have shape ({readout.shape[1]},), one a sample of the readout {readout.shape}, got {jnp.shape(labels)}"
        )
