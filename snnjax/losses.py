r"""Losses on the readout trace o (time, batch, k). Each returns one value per sample, (batch,).

The loss decides what a target is:

    cross_entropy           an integer class per sample (batch,)
    mean_square             a trace (time, batch, k), or an integer class per sample (batch,)
    SquaredError            k values per sample (batch, k): regression
    SigmoidCrossEntropy     k labels per sample (batch, k), each 0 or 1: several may hold at once

Where a target is not a trace, the trace o is read first. The result is (batch, k):

    max_over_time     o[t*] at the step t* where the trace is largest; of several equal maxima the
                      first carries the gradient
    sum_over_time     sum over steps
    mean_over_time    mean over steps
    last_step         o at the last step

Any function (time, batch, k) -> (batch, k) serves. Numbers of 16 bits are summed in float32.
Max over time: Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb, section 4.2.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from snnjax import _check

Logits = Callable[[jax.Array], jax.Array]


class Metric(NamedTuple):
    """A number per sample that is reported beside the loss, as a mean over samples.

    A loss may have an attribute `metric`: training then reports it under its name.

    Attributes:
        name: Of the columns, for example "accuracy" in `train_accuracy` and `valid_accuracy`.
        of: `(readout, target) -> (batch,)`.
    """

    name: str
    of: Callable[[jax.Array, Any], jax.Array]


def max_over_time(readout: jax.Array) -> jax.Array:
    """(time, batch, classes) -> (batch, classes), the largest value of each trace.

    >>> max_over_time(jnp.array([[[0.0, 1.0]], [[2.0, -1.0]]])).tolist()
    [[2.0, 1.0]]
    """
    _check.time_major("readout", readout)
    # jnp.max would share the gradient among equal maxima, which are common while a readout is still flat at its initial value
    return jnp.take_along_axis(readout, jnp.argmax(readout, axis=0)[None], axis=0)[0]


def sum_over_time(readout: jax.Array) -> jax.Array:
    """(time, batch, classes) -> (batch, classes), the sum over steps, in at least float32."""
    _check.time_major("readout", readout)
    return readout.sum(axis=0, dtype=_check.wide(readout.dtype))


def mean_over_time(readout: jax.Array) -> jax.Array:
    """(time, batch, k) -> (batch, k), the mean over steps, in at least float32.

    >>> mean_over_time(jnp.array([[[0.0, 1.0]], [[2.0, -1.0]]])).tolist()
    [[1.0, 0.0]]
    """
    _check.time_major("readout", readout)
    return readout.mean(axis=0, dtype=_check.wide(readout.dtype))


def last_step(readout: jax.Array) -> jax.Array:
    """(time, batch, classes) -> (batch, classes), the last step."""
    _check.time_major("readout", readout)
    return readout[-1]


def cross_entropy(readout: jax.Array, labels: jax.Array, *, logits: Logits = max_over_time) -> jax.Array:
    """Softmax cross-entropy of each sample, (batch,).

    Args:
        readout: Trace (time, batch, classes).
        labels: Integers (batch,), from 0 to classes - 1.
        logits: `max_over_time`, `sum_over_time`, `last_step` or your own.

    Returns:
        (batch,), in at least float32.

    Raises:
        ValueError: The shapes do not match, or a label is out of range (unless it is traced).
        TypeError: The labels are no integers.

    >>> [f"{v:.4f}" for v in cross_entropy(jnp.zeros((5, 2, 10)), jnp.array([3, 7]))]
    ['2.3026', '2.3026']
    """
    _check_labels(readout, labels)
    return optax.softmax_cross_entropy_with_integer_labels(_check.as_wide(logits(readout)), labels)


def mean_square(readout: jax.Array, target: jax.Array) -> jax.Array:
    """Mean over time and outputs of (o - target)^2, (batch,).

    Args:
        readout: Trace (time, batch, k).
        target: Trace (time, batch, k). Or integer labels (batch,), which stand for a constant 1 in
            their class and 0 in the others.

    Returns:
        (batch,), in at least float32.

    Raises:
        ValueError: The shapes do not match, or a label is out of range (unless it is traced).
        TypeError: A target (batch,) does not hold integers.

    >>> [f"{v:.2f}" for v in mean_square(jnp.zeros((5, 2, 10)), jnp.array([3, 7]))]
    ['0.10', '0.10']
    """
    _check.time_major("readout", readout)
    readout = _check.as_wide(readout)
    if jnp.ndim(target) == 1:
        _check_labels(readout, target)
        target = jax.nn.one_hot(target, readout.shape[-1], dtype=readout.dtype)[None]
    elif jnp.shape(target) != readout.shape:
        expected = f"target must have the readout's shape {readout.shape} or be labels (batch,)"
        raise ValueError(f"{expected}, got {jnp.shape(target)}{_hint(readout, target)}")
    return jnp.mean(jnp.square(readout - target), axis=(0, 2))


@dataclasses.dataclass(frozen=True)
class SquaredError:
    """Regression: mean over the k outputs of (read(o) - target)^2.

    Attributes:
        read: What makes values (batch, k) of a trace (time, batch, k): `last_step`,
            `mean_over_time` or your own.

    >>> loss = SquaredError(mean_over_time)
    >>> loss(jnp.ones((5, 2, 3)), jnp.zeros((2, 3))).tolist()
    [1.0, 1.0]
    """

    read: Logits = last_step

    def __call__(self, readout: jax.Array, target: jax.Array) -> jax.Array:
        """The loss of each sample.

        Args:
            readout: Trace (time, batch, k).
            target: Values (batch, k).

        Returns:
            (batch,), in at least float32.

        Raises:
            ValueError: The shapes do not match.
        """
        values = _read(self.read, readout, target)
        return jnp.mean(jnp.square(values - target), axis=-1)


@dataclasses.dataclass(frozen=True)
class SigmoidCrossEntropy:
    """Several labels per sample: mean over the k labels of the binary cross-entropy of read(o).

    Attributes:
        read: What makes logits (batch, k) of a trace (time, batch, k): `mean_over_time`,
            `last_step` or your own. Not `max_over_time`: a readout begins at 0, so that its maximum
            is never below 0, and each label would count as told to hold.

    >>> loss = SigmoidCrossEntropy()
    >>> [f"{v:.4f}" for v in loss(jnp.zeros((5, 2, 3)), jnp.array([[0, 1, 1], [0, 0, 0]]))]
    ['0.6931', '0.6931']
    """

    read: Logits = mean_over_time

    def __call__(self, readout: jax.Array, target: jax.Array) -> jax.Array:
        """The loss of each sample.

        Args:
            readout: Trace (time, batch, k).
            target: (batch, k), for each label 0 or 1, or a probability between them.

        Returns:
            (batch,), in at least float32.

        Raises:
            ValueError: The shapes do not match, or a target is outside [0, 1] (unless it is
                traced).
        """
        logits = _read(self.read, readout, target)
        self.check("target", target)
        target = jnp.asarray(target, logits.dtype)
        return optax.sigmoid_binary_cross_entropy(logits, target).mean(axis=-1)

    def check(self, name: str, target: Any) -> None:
        """Raise ValueError, with this name, unless all of `target` is in [0, 1] or traced."""
        _check.number(name, jnp.asarray(target), at_least=0, at_most=1)

    @property
    def metric(self) -> Metric:
        """Share of a sample's labels that are told right: its logit is > 0 where the label is 1."""
        return Metric("label_accuracy", self._right)

    def _right(self, readout: jax.Array, target: jax.Array) -> jax.Array:
        logits = _read(self.read, readout, target)
        right = ((logits > 0) == (jnp.asarray(target) > 0.5)) & ~jnp.isnan(logits)
        return right.mean(axis=-1, dtype=logits.dtype)


def correct(readout: jax.Array, labels: jax.Array, *, logits: Logits = max_over_time) -> jax.Array:
    """Whether the largest logit is the label's, booleans (batch,); never where a logit is NaN.

    >>> correct(jnp.array([[[0.0, 1.0], [1.0, 0.0]]]), jnp.array([1, 1])).tolist()
    [True, False]
    """
    _check_labels(readout, labels)
    scores = logits(readout)
    return (jnp.argmax(scores, axis=-1) == labels) & ~jnp.isnan(scores).any(axis=-1)


def are_classes(target: Any) -> bool:
    """Whether a target looks like classes: integers, one per sample.

    >>> are_classes(jnp.array([0, 2])), are_classes(jnp.zeros((2, 3), int))
    (True, False)
    """
    return jnp.ndim(target) == 1 and jnp.issubdtype(jnp.result_type(target), jnp.integer)


def check_classes(name: str, labels: Any, n_classes: int) -> None:
    """Raise ValueError unless all labels are in [0, n_classes), or traced.

    >>> check_classes("labels", jnp.array([0, 4]), 4)
    Traceback (most recent call last):
    ...
    ValueError: labels must be in [0, 4), one a class of the readout, got 4
    """
    known = _check.concrete(labels)
    if known is not None and known.size and (known.min() < 0 or known.max() >= n_classes):
        bad = known.min() if known.min() < 0 else known.max()
        expected = f"{name} must be in [0, {n_classes}), one a class of the readout"
        raise ValueError(f"{expected}, got {bad:g}")


def _check_labels(readout: jax.Array, labels: jax.Array) -> None:
    _check.time_major("readout", readout)
    batch, classes = readout.shape[1], readout.shape[-1]
    if not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        several = jnp.shape(labels) == (batch, classes)
        hint = "; SigmoidCrossEntropy takes several labels per sample" if several else ""
        raise TypeError(f"labels must be integers, got {jnp.result_type(labels)}{hint}")
    if jnp.shape(labels) != (batch,):
        expected = f"labels must have shape ({batch},), one a sample of the readout {readout.shape}"
        raise ValueError(f"{expected}, got {jnp.shape(labels)}{_hint(readout, labels)}")
    check_classes("labels", labels, classes)


def _read(read: Logits, readout: jax.Array, target: Any) -> jax.Array:
    """Numbers (batch, k), of which each has its target."""
    _check.time_major("readout", readout)
    values = _check.as_wide(read(readout))
    if jnp.shape(target) != values.shape:
        expected = f"target must have shape (batch, k) = {values.shape}, that of what is read"
        raise ValueError(f"{expected}, got {jnp.shape(target)}{_hint(readout, target)}")
    return values


def _hint(readout: jax.Array, target: Any) -> str:
    """What to do about a target that does not fit, where that can be guessed; else nothing."""
    (time, batch, *_, k), shape = readout.shape, jnp.shape(target)
    if time != batch and (shape[0] == time if len(shape) in (1, 2) else shape == (batch, time, k)):
        return "; arrays are time-major, (time, batch, ...): jnp.moveaxis(x, 0, 1) puts time first"
    if shape == (batch,) and k == 1:
        return "; target[:, None] has it"
    if shape == readout.shape:
        return "; mean_square takes traces"
    return ""
