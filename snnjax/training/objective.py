r"""What is minimized: a loss on the readout, and penalties on the spikes.

    objective = mean_batch loss(readout, target) + sum_layers sum_regularizers penalty(spikes)

The loss decides what the target is: classes, values, several labels, or traces (`snnjax.losses`).
`Objective` is this choice. `Problem` is the same for a given network, as a function of parameters.

Homeostatic priming is training on the activity bounds alone (`Problem.priming`). It wakes silent
neurons before there is anything to learn.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from snnjax import _check, regularizers
from snnjax._pytree import pytree_dataclass, static
from snnjax.losses import CrossEntropy, Loss, LossFn, OwnLoss
from snnjax.nn.network import Activity, Sequential
from snnjax.regularizers import ActivityBound, Penalty

Tap = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Objective:
    """What training minimizes.

    Attributes:
        loss: A `snnjax.losses.Loss`, which decides what the targets are: `CrossEntropy()` takes
            classes, `MeanSquare()` traces or classes, `SquaredError()` values (batch, k),
            `SigmoidCrossEntropy()` several labels per sample. Or a function of your own,
            `(readout, target) -> (batch,)`.
        regularizers: Penalties on the spikes of every spiking layer, such as
            `snnjax.regularizers.upper_bound(...)`.

    Raises:
        TypeError: `loss` is no function, or `regularizers` no sequence of functions.

    >>> from snnjax.losses import last_step
    >>> from snnjax.regularizers import upper_bound
    >>> objective = Objective(CrossEntropy(last_step), [upper_bound(0.1, 10.0)])
    >>> objective.loss.readout_fn.__name__, len(objective.regularizers)
    ('last_step', 1)
    """

    loss: Loss | LossFn = dataclasses.field(default_factory=CrossEntropy)
    regularizers: Sequence[Penalty] = ()

    def __post_init__(self) -> None:
        if isinstance(self.loss, type):
            name = self.loss.__name__
            raise TypeError(f"loss must be a function, got the class {name}; make one, {name}()")
        if not callable(self.loss):
            shown = f"{type(self.loss).__name__} {self.loss!r}"
            raise TypeError(f"loss must be a function, got {shown}; see snnjax.losses")
        given = self.regularizers
        if not isinstance(given, Sequence) or not all(callable(r) for r in given):
            expected = "regularizers must be a sequence of functions of spikes, [upper_bound(...)]"
            raise TypeError(f"{expected}, got {given!r}")
        loss = self.loss if isinstance(self.loss, Loss) else OwnLoss(self.loss)
        object.__setattr__(self, "loss", loss)
        object.__setattr__(self, "regularizers", tuple(given))


class Metrics(NamedTuple):
    """Means over samples.

    Attributes:
        loss: The supervised loss.
        scores: What the loss reports beside it, by name: {"accuracy": ...} for classes; may be
            empty (`snnjax.losses.Metric`).
        penalty: That of all regularizers.
        rates: Spikes per unit and step of every layer, (layers,).
    """

    loss: jax.Array
    scores: dict[str, jax.Array]
    penalty: jax.Array
    rates: jax.Array

    @property
    def accuracy(self) -> jax.Array:
        """Share of samples whose class is predicted.

        Raises:
            AttributeError: The targets are no classes.
        """
        if "accuracy" not in self.scores:
            scores = ", ".join(self.scores) or "none"
            raise AttributeError(f"there is no accuracy: targets are no classes; scores: {scores}")
        return self.scores["accuracy"]

    @property
    def quality(self) -> jax.Array:
        """What selects the best parameters: the accuracy; without one, minus the loss."""
        return self.scores.get("accuracy", -self.loss)

    def named(self, prefix: str) -> dict[str, jax.Array]:
        """Loss and scores by name, with a prefix such as "train_"."""
        return {f"{prefix}{name}": v for name, v in {"loss": self.loss, **self.scores}.items()}


@pytree_dataclass
class NetworkFn:
    """A network as a function of its parameters.

    `jax.jit` takes the functions of two networks of one structure as equal; their arrays in `rest`
    are arguments.
    """

    rest: Any
    graphdef: Any = static()
    counts: bool = static()
    taps: bool = static()

    def network(self, params: Any) -> Any:
        """The network with these parameters."""
        return nnx.merge(self.graphdef, params, self.rest)


class Problem(NamedTuple):
    """The objective of one network as a function of its parameters. Made by `Problem.of`.

    Attributes:
        apply: A network, or a function `(params, x) -> (readout, activity)`, with activity.spikes a
            tuple of trains, or counts (`snnjax.nn.Activity`). Or the readout (time, batch, k) alone,
            where the activity is not known.
        loss: That of the objective.
        regularizers: Those of the objective.
        supervised: False leaves the loss out of what is minimized; it is still reported.
        noisy: Whether the network takes a key in training, for dropout.
    """

    apply: NetworkFn | Callable[[Any, Any], Any]
    loss: Loss = CrossEntropy()
    regularizers: tuple[Penalty, ...] = ()
    supervised: bool = True
    noisy: bool = False

    @classmethod
    def of(cls, network: Any, objective: Objective) -> tuple[Problem, Any]:
        """The problem of a network, and its parameters.

        Args:
            network: An `nnx.Module`, or `(apply, params)`: a pure function `(params, x)` and its
                parameters, as of Flax Linen. If a module's `stochastic` is True, it takes a `key` when it is
                called in training. A `Sequential` with `remat_steps` gives counts instead of
                spikes, if all regularizers are `ActivityBound`s.
            objective: What is minimized.

        Returns:
            The problem, and an `nnx.State` of `nnx.Param`.

        Raises:
            TypeError: `network` is no `nnx.Module`, or `objective` no `Objective`.

        >>> from snnjax.nn import Readout
        >>> problem, params = Problem.of(Readout(5, 2, rngs=nnx.Rngs(0)), Objective())
        >>> [leaf.shape for leaf in jax.tree.leaves(params)]
        [(5, 2)]
        """
        if not isinstance(objective, Objective):
            made = (
                "objective must be a snnjax.training.Objective, such as Objective(CrossEntropy())"
            )
            raise TypeError(f"{made}, got {type(objective).__name__} {objective!r}")
        loss: Any = objective.loss
        if isinstance(network, tuple):
            apply, params = network
            return cls(apply, loss, tuple(objective.regularizers)), params
        if not isinstance(network, nnx.Module):
            is_class = isinstance(network, type)
            what = f"the class {network.__name__}" if is_class else f"a {type(network).__name__}"
            raise TypeError(f"network must be a flax.nnx.Module such as nn.Sequential, got {what}")
        graphdef, params, rest = nnx.split(network, nnx.Param, ...)
        # bounds need counts only; penalties of the user's own may need every spike
        counted = all(isinstance(r, ActivityBound) for r in objective.regularizers)
        counts = counted and type(network) is Sequential and network.remat_steps is not None
        taps = isinstance(network, Sequential) and network.remat_steps is None
        call = NetworkFn(rest=rest, graphdef=graphdef, counts=counts, taps=taps)
        noisy = getattr(network, "stochastic", False)
        return cls(call, loss, tuple(objective.regularizers), noisy=noisy), params

    def priming(self) -> Problem:
        """The activity bounds alone, without the supervised loss and penalties of the user's own.

        The lower bounds wake silent neurons: they demand a spike of every neuron in every trial.
        Alone they would drive rates to tens of hertz; the upper bounds stop that.

        Raises:
            ValueError: There is no lower bound.
        """
        bounds = tuple(r for r in self.regularizers if isinstance(r, ActivityBound))
        if not any(bound.side == "lower" for bound in bounds):
            needs = "regularizers must hold a lower bound for homeostatic priming, got none"
            raise ValueError(f"{needs}; see snnjax.regularizers.lower_bound")
        return self._replace(regularizers=bounds, supervised=False)

    @property
    def separable(self) -> bool:
        """Whether the objective is known to be a mean over samples."""
        return self.loss.separable and all(is_separable(r) for r in self.regularizers)

    def limited(self) -> list[ActivityBound]:
        """The bounds whose gradient is limited relative to that of the loss.

        These are the bounds with a `share`, in a `Sequential` that runs whole trials. There are
        none in priming, where there is no loss.
        """
        whole = isinstance(self.apply, NetworkFn) and self.apply.taps
        if not (self.supervised and whole):
            return []
        bounds = [r for r in self.regularizers if isinstance(r, ActivityBound)]
        return [bound for bound in bounds if bound.share is not None]

    def outputs(
        self, params: Any, x: Any, key: jax.Array | None = None, tap: Tap | None = None
    ) -> tuple[jax.Array, Any]:
        """Readout (time, batch, k) and activity for inputs x (time, batch, ...features).

        Args:
            params: Parameters of the network.
            x: The inputs.
            key: For what the network draws in training; None in evaluation.
            tap: For the spikes of every layer, as `snnjax.nn.Sequential` takes it.

        Returns:
            What the network returns; for a readout alone an `Activity` without spikes.

        Raises:
            TypeError: The network returns something else.
            ValueError: The readout has other axes; or there are regularizers and the network
                returns no spikes.
        """
        if isinstance(self.apply, NetworkFn):
            options: dict[str, Any] = {"counts": True} if self.apply.counts else {}
            options |= {} if tap is None else {"tap": tap}
            options |= {"key": key} if self.noisy and key is not None else {}
            out: Any = self.apply.network(params)(x, **options)
        else:
            out = self.apply(params, x)
        alone = hasattr(out, "ndim")
        pair = isinstance(out, tuple | list) and len(out) == 2 and hasattr(out[1], "spikes")
        if not alone and not pair:
            raise TypeError(f"{_RETURNS}, got {_described(out)}")
        readout: Any = out if alone else out[0]
        if readout.ndim != 3:
            raise ValueError(f"{_RETURNS}, got a readout of shape {readout.shape}")
        if not alone:
            return readout, out[1]
        if self.regularizers:
            needs = "regularizers need the spikes of every layer"
            raise ValueError(f"{needs}: {_RETURNS}, got the readout alone")
        return readout, Activity(())

    def sample_scores(self, readout: jax.Array, target: Any) -> dict[str, jax.Array]:
        """The metric of each sample by its name, {name: (batch,)}; empty if there is none."""
        metric = self.loss.metric(target)
        return {} if metric is None else {metric.name: metric.of(readout, target)}

    def value(
        self, params: Any, x: jax.Array, target: Any, key: jax.Array | None = None
    ) -> tuple[jax.Array, Metrics]:
        """The scalar that is minimized, and the metrics of a batch.

        Args:
            params: Parameters of the network.
            x: Inputs (time, batch, ...features).
            target: What the loss takes: classes (batch,), values (batch, k), ...
            key: For what the network draws; None: it draws nothing.

        Returns:
            The objective, a scalar, and its `Metrics`.
        """
        limited = self.limited()
        penalties: list[jax.Array] = []

        def tap(spikes: jax.Array) -> jax.Array:
            spikes, penalty = regularizers.limited(spikes, limited)
            penalties.append(penalty)
            return spikes

        readout, activity = self.outputs(params, x, key, tap if limited else None)
        loss = self.loss(readout, target).mean()
        others = [r for r in self.regularizers if not any(r is bound for bound in limited)]
        penalty = sum(penalties, start=regularizers.total_penalty(others, activity.spikes))
        each = self.sample_scores(readout, target)
        scores = {name: s.mean(dtype=loss.dtype) for name, s in each.items()}
        mean = lambda s: s.mean(dtype=_check.wide(s.dtype))
        rates = [mean(s) / steps_of_a_row(activity, s) for s in activity.spikes]
        value = loss + penalty if self.supervised else penalty
        return value, Metrics(loss, scores, penalty, jnp.asarray(rates))


def is_separable(part: Any) -> bool:
    """Whether a loss, regularizer or source says that it treats samples one by one.

    Functions and sources of the user's own may lack the attribute `separable`; they count as not
    separable.
    """
    return getattr(part, "separable", False)


def steps_of_a_row(activity: Any, spikes: jax.Array) -> float:
    """Time steps that one entry of the first axis of `spikes` covers.

    It is 1 for spike trains; for counts, the length of a part of the trial.
    """
    steps = getattr(activity, "steps", None)
    return 1 if steps is None else steps / len(spikes)


_RETURNS = "network must return the readout (time, batch, k), or (readout, activity with .spikes)"


def _described(out: Any) -> str:
    parts = [type(part).__name__ for part in out] if isinstance(out, tuple | list) else ""
    return f"a {type(out).__name__} {parts}".rstrip()
