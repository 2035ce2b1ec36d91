r"""Losses on the readout trace o (time, batch, k). Each returns one value per sample, (batch,).

The loss determines the form of the targets:

    CrossEntropy            an integer class per sample (batch,), or the probabilities of all
                            classes (batch, k)
    MeanSquare              a trace (time, batch, k), or an integer class per sample (batch,)
    SquaredError            k values per sample (batch, k): regression
    SigmoidCrossEntropy     k labels per sample (batch, k), each 0 or 1; several may be 1
    EveryStep(loss)         those of `loss`, or one for each step: the mean over steps of `loss`

If a target is not a trace, a readout function first maps the trace o to scores (batch, k):

    max_over_time     o[t*] at the step t* where the trace is largest; among equal maxima the first
                      gets the gradient
    sum_over_time     sum over steps
    mean_over_time    mean over steps
    last_step         o at the last step

Any other function (time, batch, k) -> (batch, k) can be used. 16-bit numbers are summed in float32.

If trials have different lengths, targets are `Timed(target, num_steps)`. Steps after the end of a
trial then do not count: max, sum, mean and last step are those of the trial alone.
Max over time: Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb, section 4.2.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from snnjax import _check
from snnjax._timed import Timed, called, untimed

__all__ = [
    "CrossEntropy",
    "MeanSquare",
    "SquaredError",
    "SigmoidCrossEntropy",
    "EveryStep",
    "Timed",
    "max_over_time",
    "sum_over_time",
    "mean_over_time",
    "last_step",
    "accuracy",
]

ReadoutFn = Callable[..., jax.Array]
"""`(readout) -> (batch, k)`, or `(readout, num_steps)` for trials of different length."""
LossFn = Callable[..., jax.Array]
"""`(readout, target) -> (batch,)`, or `(readout, target, num_steps)`."""
Target = ArrayLike | Timed
"""Targets: classes (batch,), values or labels (batch, k), or traces (time, batch, k)."""


@runtime_checkable
class Separable(Protocol):
    """A loss, regularizer or source that says whether it treats samples independently."""

    @property
    def separable(self) -> bool: ...


class Metric(NamedTuple):
    """A number per sample that is reported in addition to the loss, as a mean over samples.

    Attributes:
        name: Name in the columns, for example "accuracy" in `train_accuracy`, `valid_accuracy`.
        of: `(readout, target) -> (batch,)`.
    """

    name: str
    of: LossFn


class Loss(abc.ABC):
    """Base class of losses. Training also takes a plain function `(readout, target) -> (batch,)`.

    Attributes:
        separable: Whether the loss of a sample depends only on this sample. Then the gradient of a
            batch is the mean of the gradients of its parts.
    """

    separable: ClassVar[bool] = True

    @abc.abstractmethod
    def __call__(self, readout: jax.Array, target: Target) -> jax.Array:
        """The loss of each sample, (batch,), for a trace (time, batch, k)."""

    def metric(self, target: Target) -> Metric | None:
        """The metric that is reported in addition to the loss for such targets, or None."""
        return None

    def check(self, name: str, targets: Target, outputs: int) -> None:
        """Raise ValueError if a target is out of range, unless it is traced.

        Args:
            name: Name of the targets in the error.
            targets: One target per sample.
            outputs: Number of outputs of the readout.
        """
        labels, _ = untimed(targets)
        metric = self.metric(labels)
        if metric is not None and metric.name == "accuracy":
            check_classes(name, labels, outputs)


@dataclasses.dataclass(frozen=True)
class OwnLoss(Loss):
    """A plain function as a `Loss`. `snnjax.training.Objective` creates it.

    Attributes:
        function: `(readout, target) -> (batch,)`. For trials of different length it must take
            `num_steps` (batch,) as a third argument. Its attribute `metric` is the `Metric` that is
            reported, or None. Without this attribute, the accuracy is reported if the targets are
            integers (batch,). The attribute `separable` of the function is False unless it is set.
    """

    function: LossFn

    @property
    def separable(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The attribute `separable` of the function, or False."""
        return isinstance(self.function, Separable) and self.function.separable

    def __call__(self, readout: jax.Array, target: Target) -> jax.Array:
        """The loss of each sample, (batch,).

        Raises:
            ValueError: The function returns another shape.
        """
        target, num_steps = untimed(target, readout)
        values = called("loss", self.function, (readout, target), num_steps)
        if jnp.shape(values) != (readout.shape[1],):
            expected = f"loss must return one value per sample, ({readout.shape[1]},)"
            raise ValueError(f"{expected}, got {jnp.shape(values)}")
        return values

    def metric(self, target: Target) -> Metric | None:
        """The function's metric, or the accuracy of classes."""
        found = accuracy() if are_classes(untimed(target)[0]) else None
        return getattr(self.function, "metric", found)


def max_over_time(readout: jax.Array, num_steps: jax.Array | None = None) -> jax.Array:
    """Return the largest value of each trace: (time, batch, classes) -> (batch, classes).

    Args:
        readout: The traces.
        num_steps: Number of steps of each trial, integers (batch,); None: all.

    >>> max_over_time(jnp.array([[[0.0, 1.0]], [[2.0, -1.0]]])).tolist()
    [[2.0, 1.0]]
    """
    _check.time_major("readout", readout)
    candidates = _until(readout, num_steps, -jnp.inf)
    # jnp.max would split the gradient among equal maxima, which are common while a readout is still
    # constant at its initial value
    return _at(readout, jnp.argmax(candidates, axis=0), axis=0)


def sum_over_time(readout: jax.Array, num_steps: jax.Array | None = None) -> jax.Array:
    """Return the sum over steps: (time, batch, classes) -> (batch, classes), at least float32.

    Args:
        readout: The traces.
        num_steps: Number of steps of each trial, integers (batch,); None: all.
    """
    _check.time_major("readout", readout)
    return _until(readout, num_steps, 0.0).sum(axis=0, dtype=_check.wide(readout.dtype))


def mean_over_time(readout: jax.Array, num_steps: jax.Array | None = None) -> jax.Array:
    """Return the mean over steps: (time, batch, k) -> (batch, k), in at least float32.

    Args:
        readout: The traces.
        num_steps: Number of steps of each trial, integers (batch,); None: all.

    >>> mean_over_time(jnp.array([[[0.0, 1.0]], [[2.0, -1.0]]])).tolist()
    [[1.0, 0.0]]
    """
    _check.time_major("readout", readout)
    if num_steps is None:
        return readout.mean(axis=0, dtype=_check.wide(readout.dtype))
    return sum_over_time(readout, num_steps) / num_steps[:, None]


def last_step(readout: jax.Array, num_steps: jax.Array | None = None) -> jax.Array:
    """Return the last step: (time, batch, classes) -> (batch, classes).

    Args:
        readout: The traces.
        num_steps: Number of steps of each trial, integers (batch,); None: all.
    """
    _check.time_major("readout", readout)
    if num_steps is None:
        return readout[-1]
    return _at(readout, num_steps[:, None] - 1, axis=0)


def _at(a: jax.Array, index: jax.Array, *, axis: int) -> jax.Array:
    """The elements `index` along an axis, as `jnp.take_along_axis` without that axis.

    A gather and its gradient, a scatter, are a dozen kernels to compile; this is a fused sum.
    """
    index = jnp.expand_dims(index, axis)
    here = jax.lax.broadcasted_iota(index.dtype, a.shape, axis % a.ndim) == index
    return jnp.where(here, a, 0).sum(axis=axis, dtype=a.dtype)


def _until(readout: jax.Array, num_steps: jax.Array | None, value: float) -> jax.Array:
    """Return the traces with `value` after the end of each trial."""
    if num_steps is None:
        return readout
    after = Timed(target=None, num_steps=num_steps).after(len(readout))
    return jnp.where(after[..., None], value, readout)


@dataclasses.dataclass(frozen=True)
class CrossEntropy(Loss):
    """Softmax cross-entropy of classes. The accuracy is also reported.

    Attributes:
        readout_fn: Maps a trace (time, batch, classes) to logits (batch, classes).

    >>> loss = CrossEntropy()
    >>> [f"{v:.4f}" for v in loss(jnp.zeros((5, 2, 10)), jnp.array([3, 7]))]
    ['2.3026', '2.3026']
    """

    readout_fn: ReadoutFn = max_over_time

    def __call__(self, readout: jax.Array, target: Target) -> jax.Array:
        """The loss of each sample.

        Args:
            readout: Trace (time, batch, classes).
            target: Integers (batch,), from 0 to classes - 1. Or probabilities (batch, classes), as
                for samples that are mixed of several classes.

        Returns:
            (batch,), in at least float32.

        Raises:
            ValueError: The shapes do not match, or a label is out of range (unless it is traced).
            TypeError: The labels are neither integers nor probabilities that add up to 1.
        """
        labels, num_steps = untimed(target, readout)
        _check_labels(readout, labels)
        logits = _check.as_wide(called("readout_fn", self.readout_fn, (readout,), num_steps))
        if jnp.ndim(labels) == 2:
            return optax.softmax_cross_entropy(logits, jnp.asarray(labels, logits.dtype))
        labels = jnp.asarray(labels)
        values = jax.nn.logsumexp(logits, axis=-1) - _at(logits, labels, axis=-1)
        # a traced label cannot be checked; training stops at a loss that is not finite
        return jnp.where((labels >= 0) & (labels < logits.shape[-1]), values, jnp.nan)

    def metric(self, target: Target) -> Metric:
        """The accuracy."""
        return accuracy(self.readout_fn)


@dataclasses.dataclass(frozen=True)
class MeanSquare(Loss):
    """Mean over time and outputs of (o - target)^2.

    Attributes:
        readout_fn: Maps a trace to scores for the accuracy, if the targets are classes.

    >>> loss = MeanSquare()
    >>> [f"{v:.2f}" for v in loss(jnp.zeros((5, 2, 10)), jnp.array([3, 7]))]
    ['0.10', '0.10']
    """

    readout_fn: ReadoutFn = max_over_time

    def __call__(self, readout: jax.Array, target: Target) -> jax.Array:
        """The loss of each sample.

        Args:
            readout: Trace (time, batch, k).
            target: Trace (time, batch, k); or integer labels (batch,), which mean a constant 1 in
                their class and 0 in the others.

        Returns:
            (batch,), in at least float32.

        Raises:
            ValueError: The shapes do not match, or a label is out of range (unless it is traced).
            TypeError: A target (batch,) does not contain integers.
        """
        _check.time_major("readout", readout)
        readout = _check.as_wide(readout)
        wanted, num_steps = untimed(target, readout)
        if jnp.ndim(wanted) == 1:
            _check_labels(readout, wanted)
            wanted = jax.nn.one_hot(wanted, readout.shape[-1], dtype=readout.dtype)[None]
        elif jnp.shape(wanted) != readout.shape:
            expected = f"target must have the readout's shape {readout.shape} or be labels (batch,)"
            raise ValueError(f"{expected}, got {jnp.shape(wanted)}{_hint(readout, wanted)}")
        squares = jnp.square(readout - wanted)
        if num_steps is None:
            return jnp.mean(squares, axis=(0, 2))
        return jnp.mean(mean_over_time(squares, num_steps), axis=1)

    def metric(self, target: Target) -> Metric | None:
        """The accuracy of classes; None for traces."""
        return accuracy(self.readout_fn) if are_classes(untimed(target)[0]) else None


@dataclasses.dataclass(frozen=True)
class SquaredError(Loss):
    """Regression: mean over the k outputs of (readout_fn(o) - target)^2.

    Attributes:
        readout_fn: Maps a trace (time, batch, k) to values (batch, k): `last_step`,
            `mean_over_time` or your own function.

    >>> loss = SquaredError(mean_over_time)
    >>> loss(jnp.ones((5, 2, 3)), jnp.zeros((2, 3))).tolist()
    [1.0, 1.0]
    """

    readout_fn: ReadoutFn = last_step

    def __call__(self, readout: jax.Array, target: Target) -> jax.Array:
        """The loss of each sample.

        Args:
            readout: Trace (time, batch, k).
            target: Values (batch, k).

        Returns:
            (batch,), in at least float32.

        Raises:
            ValueError: The shapes do not match.
        """
        values, target = _read(self.readout_fn, readout, target)
        return jnp.mean(jnp.square(values - target), axis=-1)


@dataclasses.dataclass(frozen=True)
class SigmoidCrossEntropy(Loss):
    """Several labels per sample: mean binary cross-entropy over the k labels.

    Attributes:
        readout_fn: Maps a trace (time, batch, k) to logits (batch, k): `mean_over_time`,
            `last_step` or your own function. `max_over_time` is not suitable: a readout starts at
            0, so that its maximum is never below 0 and every label would be predicted as 1.

    >>> loss = SigmoidCrossEntropy()
    >>> [f"{v:.4f}" for v in loss(jnp.zeros((5, 2, 3)), jnp.array([[0, 1, 1], [0, 0, 0]]))]
    ['0.6931', '0.6931']
    """

    readout_fn: ReadoutFn = mean_over_time

    def __call__(self, readout: jax.Array, target: Target) -> jax.Array:
        """The loss of each sample.

        Args:
            readout: Trace (time, batch, k).
            target: Labels (batch, k), each 0 or 1, or a probability.

        Returns:
            (batch,), in at least float32.

        Raises:
            ValueError: The shapes do not match, or a target is outside [0, 1] (unless it is
                traced).
        """
        logits, target = _read(self.readout_fn, readout, target)
        self.check("target", target, logits.shape[-1])
        target = jnp.asarray(target, logits.dtype)
        return optax.sigmoid_binary_cross_entropy(logits, target).mean(axis=-1)

    def check(self, name: str, targets: Target, outputs: int) -> None:
        """Raise ValueError unless all `targets` are in [0, 1] or traced."""
        _check.number(name, jnp.asarray(untimed(targets)[0]), at_least=0, at_most=1)

    def metric(self, target: Target) -> Metric:
        """Share of a sample's labels that are predicted correctly: the logit is > 0 for label 1."""
        return Metric("label_accuracy", self._right)

    def _right(self, readout: jax.Array, target: Target) -> jax.Array:
        logits, target = _read(self.readout_fn, readout, target)
        right = ((logits > 0) == (jnp.asarray(target) > 0.5)) & ~jnp.isnan(logits)
        return right.mean(axis=-1, dtype=logits.dtype)


@dataclasses.dataclass(frozen=True)
class EveryStep(Loss):
    """Mean over the steps of a trial of a loss that sees one step at a time.

        EveryStep(loss)(o, target) = mean_t loss(o[t:t+1], target[t])

    The error of the readout is then known in each step, as online learning needs it
    (`snnjax.training.EProp`). All readout functions of a single step are the step itself; that of
    `loss` still determines the accuracy.

    Attributes:
        loss: A loss of this module. Its targets are those of the whole trial, or those of each
            step (time, batch, k), such as a trace for `MeanSquare()`.

    Raises:
        TypeError: `loss` is not a `Loss`.

    >>> readout = jnp.array([[[0.0, 0.0]], [[2.0, 0.0]]])
    >>> [f"{CrossEntropy()(o[None], jnp.array([0]))[0]:.4f}" for o in readout]
    ['0.6931', '0.1269']
    >>> f"{EveryStep(CrossEntropy())(readout, jnp.array([0]))[0]:.4f}"
    '0.4100'
    """

    loss: Loss = CrossEntropy(mean_over_time)

    def __post_init__(self) -> None:
        if not isinstance(self.loss, Loss) or isinstance(self.loss, EveryStep):
            needed = "loss must be a loss of one step, for example CrossEntropy(mean_over_time)"
            raise TypeError(f"{needed}, got {self.loss!r}")

    @property
    def separable(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether that of `loss` is."""
        return self.loss.separable

    def __call__(self, readout: jax.Array, target: Target) -> jax.Array:
        """The loss of each sample.

        Args:
            readout: Trace (time, batch, k).
            target: As `loss` takes it, or one target for each step, (time, batch, k).

        Returns:
            (batch,), in at least float32.

        Raises:
            ValueError: The targets of the steps are not as many as the steps; or as in `loss`.
            TypeError: As in `loss`.
        """
        _check.time_major("readout", readout)
        wanted, num_steps = untimed(target, readout)
        stepwise = self.stepwise(wanted, len(readout))
        axes = (0, 0 if stepwise else None)
        each = jax.vmap(self.at, in_axes=axes)(readout, wanted)
        return mean_over_time(each[..., None], num_steps)[:, 0]

    def at(self, readout: jax.Array, target: ArrayLike) -> jax.Array:
        """The loss of each sample at one step.

        Args:
            readout: The readout of the step, (batch, k).
            target: Targets of the trial as `loss` takes them, or those of the step (batch, k).

        Returns:
            (batch,).
        """
        traces = isinstance(self.loss, MeanSquare) and jnp.ndim(target) == 2
        return self.loss(readout[None], jnp.asarray(target)[None] if traces else target)

    def stepwise(self, target: ArrayLike, num_steps: int) -> bool:
        """Whether there is one target for each step.

        Args:
            target: Targets without lengths.
            num_steps: Number of steps of the readout.

        Raises:
            ValueError: There are targets of another number of steps.
        """
        if jnp.ndim(target) != 3:
            return False
        if len(jnp.asarray(target)) != num_steps:
            needed = f"target must have the {num_steps} steps of the readout"
            raise ValueError(f"{needed}, got the shape {jnp.shape(target)}")
        return True

    def metric(self, target: Target) -> Metric | None:
        """That of `loss`, of the whole trial. None if there is one target for each step."""
        return None if jnp.ndim(untimed(target)[0]) == 3 else self.loss.metric(target)

    def check(self, name: str, targets: Target, outputs: int) -> None:
        """As `loss` does."""
        self.loss.check(name, targets, outputs)


def correct(
    readout: jax.Array, labels: jax.Array, *, readout_fn: ReadoutFn = max_over_time
) -> jax.Array:
    """Whether the largest score is that of the label.

    Args:
        readout: Trace (time, batch, classes).
        labels: Integers (batch,), or probabilities (batch, classes), of which the largest counts.
        readout_fn: Maps a trace to scores (batch, classes).

    Returns:
        Booleans (batch,); False if a score of the sample is NaN.

    >>> correct(jnp.array([[[0.0, 1.0], [1.0, 0.0]]]), jnp.array([1, 1])).tolist()
    [True, False]
    """
    classes, num_steps = untimed(labels, readout)
    _check_labels(readout, classes)
    if jnp.ndim(classes) == 2:
        classes = jnp.argmax(classes, axis=-1)
    scores = called("readout_fn", readout_fn, (readout,), num_steps)
    return (jnp.argmax(scores, axis=-1) == classes) & ~jnp.isnan(scores).any(axis=-1)


def accuracy(readout_fn: ReadoutFn = max_over_time) -> Metric:
    """Return the metric "accuracy": `correct` with this readout function.

    Args:
        readout_fn: Maps a trace (time, batch, classes) to scores (batch, classes).

    Returns:
        The metric. Your own loss function can have it as its attribute `metric`.

    >>> accuracy(last_step).name
    'accuracy'
    """
    return Metric("accuracy", functools.partial(correct, readout_fn=readout_fn))


def are_classes(target: ArrayLike) -> bool:
    """Whether a target has the form of classes: integers, one per sample.

    >>> are_classes(jnp.array([0, 2])), are_classes(jnp.zeros((2, 3), int))
    (True, False)
    """
    return jnp.ndim(target) == 1 and jnp.issubdtype(jnp.result_type(target), jnp.integer)


def check_classes(name: str, labels: ArrayLike, num_classes: int) -> None:
    """Raise ValueError unless all labels are in [0, num_classes), or traced.

    >>> check_classes("labels", jnp.array([0, 4]), 4)
    Traceback (most recent call last):
    ...
    ValueError: labels must be in [0, 4), one class per output of the readout, got 4
    """
    known = _check.concrete(labels)
    if known is not None and known.size and (known.min() < 0 or known.max() >= num_classes):
        bad = known.min() if known.min() < 0 else known.max()
        expected = f"{name} must be in [0, {num_classes}), one class per output of the readout"
        raise ValueError(f"{expected}, got {bad:g}")


def _check_labels(readout: jax.Array, labels: ArrayLike) -> None:
    _check.time_major("readout", readout)
    batch, classes = readout.shape[1], readout.shape[-1]
    if jnp.shape(labels) == (batch, classes) and _are_probabilities(labels):
        return
    if not jnp.issubdtype(jnp.result_type(labels), jnp.integer):
        several = jnp.shape(labels) == (batch, classes)
        hint = "; SigmoidCrossEntropy takes several labels per sample" if several else ""
        raise TypeError(f"labels must be integers, got {jnp.result_type(labels)}{hint}")
    if jnp.shape(labels) != (batch,):
        expected = f"labels must have shape ({batch},) for a readout {readout.shape}"
        raise ValueError(f"{expected}, got {jnp.shape(labels)}{_hint(readout, labels)}")
    check_classes("labels", labels, classes)


def _are_probabilities(labels: ArrayLike) -> bool:
    """Whether each row of floating point numbers adds up to 1, or is traced."""
    if not jnp.issubdtype(jnp.result_type(labels), jnp.floating):
        return False
    known = _check.concrete(labels)
    return known is None or bool(((known >= 0).all(-1) & (abs(known.sum(-1) - 1) < 1e-3)).all())


def _read(readout_fn: ReadoutFn, readout: jax.Array, target: Target) -> tuple[jax.Array, ArrayLike]:
    """The values (batch, k) of the readout function, and the targets, whose shape is checked."""
    _check.time_major("readout", readout)
    wanted, num_steps = untimed(target, readout)
    values = _check.as_wide(called("readout_fn", readout_fn, (readout,), num_steps))
    if jnp.shape(wanted) != values.shape:
        expected = f"target must have shape (batch, k) = {values.shape}, as readout_fn returns it"
        raise ValueError(f"{expected}, got {jnp.shape(wanted)}{_hint(readout, wanted)}")
    return values, wanted


def _hint(readout: jax.Array, target: ArrayLike) -> str:
    """What to do about a target that does not fit, if the cause can be guessed; else ""."""
    (time, batch, *_, k), shape = readout.shape, jnp.shape(target)
    if time != batch and (shape[0] == time if len(shape) in (1, 2) else shape == (batch, time, k)):
        return "; arrays are time-major, (time, batch, ...): jnp.moveaxis(x, 0, 1) puts time first"
    if shape == (batch,) and k == 1:
        return "; use target[:, None]"
    if shape == readout.shape:
        return "; MeanSquare takes traces"
    return ""
