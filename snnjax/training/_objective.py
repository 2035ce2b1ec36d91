r"""The objective of training: a loss on the readout, and penalties on the spikes.

    objective = mean_batch loss(readout, target) + sum_layers sum_regularizers penalty(spikes)

The loss determines the form of the targets: classes, values, several labels, or traces
(`snnjax.losses`). `Objective` contains the loss and the regularizers. `Problem` is the objective of
a given network as a function of its parameters.

Homeostatic priming is training on only the activity bounds (`Problem.priming`). It activates silent
neurons before supervised training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from snnjax import _check
from snnjax._pytree import PyTree, pytree_dataclass, static
from snnjax.datasets import BatchSource
from snnjax.losses import CrossEntropy, Loss, LossFn, OwnLoss, Separable, Target, Timed
from snnjax.nn._network import Activity, NetworkOutput, Sequential, Tap
from snnjax.nn._norm import Statistics
from snnjax.regularizers import ActivityBound, LimitedPenalties, Penalty, total_penalty
from snnjax.training._eprop import EProp, check_loss

Params = optax.Params
"""Parameters of a network: an `nnx.State` of `nnx.Param`, or the pytree that its function takes."""
Inputs = PyTree
"""Inputs of a network: an array (time, batch, ...features) or an `EventRaster`."""
_NOISE = 2**31 - 1  # the network must not draw the same random numbers as the source


@runtime_checkable
class HasSpikes(Protocol):
    """The activity of a network: spikes of every spiking layer (`snnjax.nn.Activity`)."""

    @property
    def spikes(self) -> tuple[jax.Array, ...]: ...


@runtime_checkable
class Stochastic(Protocol):
    """A network that says whether it draws random numbers in training."""

    @property
    def stochastic(self) -> bool: ...


@dataclasses.dataclass(frozen=True)
class Objective:
    """The loss and the regularizers that training minimizes.

    Attributes:
        loss: One of `snnjax.losses`. It sets the form of the targets: `CrossEntropy()` takes
            classes, `MeanSquare()` traces or classes, `SquaredError()` values (batch, k),
            `SigmoidCrossEntropy()` several labels per sample. Or your own function,
            `(readout, target) -> (batch,)`.
        regularizers: Penalties on the spikes of every spiking layer, such as
            `snnjax.regularizers.upper_bound(...)`.

    Raises:
        TypeError: `loss` is not a function, or `regularizers` is not a sequence of functions.

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
        scores: Further metrics of the loss by name (`snnjax.losses.Metric`): {"accuracy": ...} for
            classes. It may be empty.
        penalty: The sum of all regularizers.
        rates: Spikes per unit and step of every layer, (layers,).
    """

    loss: jax.Array
    scores: dict[str, jax.Array]
    penalty: jax.Array
    rates: jax.Array

    @property
    def accuracy(self) -> jax.Array:
        """Share of samples whose class is predicted correctly.

        Raises:
            AttributeError: The targets are not classes.
        """
        if "accuracy" not in self.scores:
            scores = ", ".join(self.scores) or "none"
            raise AttributeError(
                f"there is no accuracy, because the targets are not classes; scores: {scores}"
            )
        return self.scores["accuracy"]

    @property
    def quality(self) -> jax.Array:
        """The criterion for the best parameters: the accuracy; without one, minus the loss."""
        return self.scores.get("accuracy", -self.loss)

    def named(self, prefix: str) -> dict[str, jax.Array]:
        """Loss and scores by name, with a prefix such as "train_"."""
        return {f"{prefix}{name}": v for name, v in {"loss": self.loss, **self.scores}.items()}


@pytree_dataclass
class NetworkFn:
    """A network as a function of its parameters.

    For `jax.jit` the functions of two networks with the same structure are equal; the arrays in
    `rest` are arguments.
    """

    rest: Any
    graphdef: Any = static()
    counts: bool = static()
    taps: bool = static()

    def network(self, params: Params) -> Any:
        """The network with these parameters."""
        return nnx.merge(self.graphdef, params, self.rest)


class Problem(NamedTuple):
    """The objective of one network as a function of its parameters.

    `Problem.from_objective` creates it.

    Attributes:
        apply: A network, or a function `(params, x) -> (readout, activity)`; `activity.spikes` is a
            tuple of spike trains or counts (`snnjax.nn.Activity`). The function may also return
            only the readout (time, batch, k).
        loss: The loss of the objective.
        regularizers: The regularizers of the objective.
        supervised: False excludes the loss from the minimized value. It is still reported.
        noisy: Whether the network takes a key in training, for dropout or batch normalization.
        joint: Whether the output for a sample depends on the other samples of a batch in training,
            as with batch normalization.
        online: Whether the gradient is that of an `EProp` network.
    """

    apply: NetworkFn | Callable[[Any, Any], Any]
    loss: Loss = CrossEntropy()
    regularizers: tuple[Penalty, ...] = ()
    supervised: bool = True
    noisy: bool = False
    joint: bool = False
    online: bool = False

    @classmethod
    def from_objective(
        cls, network: nnx.Module | tuple[Callable[..., Any], Params], objective: Objective
    ) -> tuple[Problem, Any]:
        """The problem of a network, and its parameters.

        Args:
            network: An `nnx.Module`; or `(apply, params)`, a pure function `(params, x)` and its
                parameters, for example of Flax Linen. If a module's `stochastic` is True, training
                calls it with a `key`. A `Sequential` with `remat_steps` returns counts instead of
                spikes if all regularizers are `ActivityBound`s.
            objective: The loss and the regularizers.

        Returns:
            The problem, and the parameters, an `nnx.State` of `nnx.Param`.

        Raises:
            TypeError: `network` is not an `nnx.Module`, or `objective` is not an `Objective`.

        >>> from snnjax.nn import Readout
        >>> problem, params = Problem.from_objective(Readout(5, 2, rngs=nnx.Rngs(0)), Objective())
        >>> [leaf.shape for leaf in jax.tree.leaves(params)]
        [(5, 2)]
        """
        if not isinstance(objective, Objective):
            made = "objective must be a snnjax.training.Objective"
            got = f"{type(objective).__name__} {objective!r}"
            raise TypeError(f"{made}, such as Objective(CrossEntropy()), got {got}")
        loss: Any = objective.loss
        if isinstance(network, tuple):
            if len(network) != 2 or not callable(network[0]):
                pair = "network must be a flax.nnx.Module, or a function and its parameters"
                raise TypeError(f"{pair} (apply, params), got {_described(network)}")
            apply, params = network
            return cls(apply, loss, tuple(objective.regularizers)), params
        if not isinstance(network, nnx.Module):
            is_class = isinstance(network, type)
            what = (
                f"the class {network.__name__}"
                if is_class
                else f"an object of type {type(network).__name__}"
            )
            raise TypeError(f"network must be a flax.nnx.Module such as nn.Sequential, got {what}")
        graphdef, params, rest = nnx.split(network, nnx.Param, ...)
        # bounds need only counts; the user's own penalties may need every spike
        counted = all(isinstance(r, ActivityBound) for r in objective.regularizers)
        counts = counted and type(network) is Sequential and network.remat_steps is not None
        inherits = type(network).__call__ is Sequential.__call__
        taps = isinstance(network, Sequential) and network.remat_steps is None and inherits
        call = NetworkFn(rest=rest, graphdef=graphdef, counts=counts, taps=taps)
        noisy = isinstance(network, Stochastic) and network.stochastic
        variables = jax.tree.leaves(params, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))
        joint = any(isinstance(variable, Statistics) for variable in variables)
        online = isinstance(network, EProp)
        if online:
            check_loss(loss)
        if online and objective.regularizers:
            needed = "regularizers must be empty for e-prop, whose objective is a sum over steps"
            raise ValueError(f"{needed}, got {objective.regularizers!r}")
        how = {"noisy": noisy, "joint": joint, "online": online}
        return cls(call, loss, tuple(objective.regularizers), **how), params

    def priming(self) -> Problem:
        """The same problem with only the activity bounds.

        The supervised loss and the user's own penalties are left out. The lower bounds activate
        silent neurons: each neuron must spike in every trial. Without upper bounds, this would
        raise the rates to tens of hertz.

        Raises:
            ValueError: There is no lower bound.
        """
        bounds = tuple(r for r in self.regularizers if isinstance(r, ActivityBound))
        if not any(bound.side == "lower" for bound in bounds):
            needs = "regularizers must have a lower bound for homeostatic priming, got none"
            raise ValueError(f"{needs}; see snnjax.regularizers.lower_bound")
        return self._replace(regularizers=bounds, supervised=False)

    @property
    def separable(self) -> bool:
        """Whether the objective is known to be a mean over samples."""
        parts = all(is_separable(r) for r in self.regularizers)
        return parts and self.loss.separable and not self.joint

    def limited(self) -> tuple[list[ActivityBound], list[Penalty]]:
        """The bounds whose gradient is limited relative to that of the loss, and all others.

        The bounds with a `share` are limited in a `Sequential` that runs whole trials and whose
        class does not override `__call__`. In priming none are limited, because there is no loss.
        """
        whole = isinstance(self.apply, NetworkFn) and self.apply.taps
        bounds: list[ActivityBound] = []
        others: list[Penalty] = []
        for r in self.regularizers:
            if isinstance(r, ActivityBound) and r.share is not None and self.supervised and whole:
                bounds.append(r)
            else:
                others.append(r)
        return bounds, others

    def call(
        self, params: Params, key: jax.Array | None = None, tap: Tap | None = None
    ) -> Callable[[Inputs], object]:
        """The network as a function of its inputs; `read` checks what it returns.

        Args:
            params: Parameters of the network.
            key: Random key of the network in training; None in evaluation.
            tap: A function of the spikes of every layer, as in `snnjax.nn.Sequential`.
        """
        if not isinstance(self.apply, NetworkFn):
            return partial(self.apply, params)
        network = self.apply.network(params)
        options: dict[str, Any] = {"counts": True} if self.apply.counts else {}
        options |= {} if tap is None else {"tap": tap}
        options |= {"key": key} if self.noisy and key is not None else {}
        # a class of the user that is derived from Sequential may have its own __call__
        return partial(network.run if type(network) is Sequential else network, **options)

    def outputs(
        self,
        params: Params,
        x: Inputs,
        target: Target | None = None,
        *,
        key: jax.Array | None = None,
        limited: LimitedPenalties | None = None,
    ) -> tuple[jax.Array, HasSpikes]:
        """Readout (time, batch, k) and activity.

        Args:
            params: Parameters of the network.
            x: Inputs.
            target: Targets of the batch. If they are `Timed`, spikes after the end of a trial
                become 0.
            key: Random key of the network in training; None in evaluation.
            limited: The bounds whose gradient is limited, as a tap of the network.

        Raises:
            ValueError: As in `read`; or targets are `Timed`, and the network returns counts or has
                batch normalization in training.
        """
        if not isinstance(target, Timed):
            return self.read(self.call(params, key, limited)(x))
        if self.joint and key is not None:
            needed = "a network without batch normalization, whose statistics are of all steps"
            raise ValueError(f"trials of different length need {needed}")
        if isinstance(self.apply, NetworkFn) and self.apply.taps:
            # the layers above receive nothing after the end, either; that changes no earlier step
            silenced = target.silenced
            tap = silenced if limited is None else lambda z: limited(silenced(z))
            return self.read(self.call(params, key, tap)(x))
        readout, activity = self.read(self.call(params, key)(x))
        if any(len(z) != len(readout) for z in activity.spikes):
            needed = "a network that returns the spikes of all steps, without remat_steps"
            raise ValueError(f"trials of different length need {needed}")
        return readout, Activity(tuple(map(target.silenced, activity.spikes)))

    def read(self, out: Any) -> tuple[jax.Array, HasSpikes]:
        """The readout (time, batch, k) and the activity in what the network returned.

        Args:
            out: What the function `call(...)` returned.

        Returns:
            The readout and the activity. If the network returns only a readout, the `Activity` has
            no spikes.

        Raises:
            TypeError: The network returns another type.
            ValueError: The readout has other axes, or there are regularizers and the network
                returns no spikes.
        """
        if isinstance(out, tuple) and len(out) == 2 and isinstance(out[1], NetworkOutput):
            out = out[1]  # of `Sequential.run`, without the state
        alone = isinstance(out, jax.Array | np.ndarray)
        pair = isinstance(out, tuple | list) and len(out) == 2 and isinstance(out[1], HasSpikes)
        if not alone and not pair:
            raise TypeError(f"{_RETURNS}, got {_described(out)}")
        readout: Any = out if alone else out[0]
        if readout.ndim != 3:
            raise ValueError(f"{_RETURNS}, got a readout of shape {readout.shape}")
        if not alone:
            return readout, out[1]
        if self.regularizers:
            needs = "regularizers need the spikes of every layer"
            raise ValueError(f"{needs}: {_RETURNS}, got only the readout")
        return readout, Activity(())

    def sample_scores(self, readout: jax.Array, target: Target) -> dict[str, jax.Array]:
        """The metric of each sample by its name, {name: (batch,)}; empty if there is none."""
        metric = self.loss.metric(target)
        return {} if metric is None else {metric.name: metric.of(readout, target)}

    def value(
        self, params: Params, source: BatchSource, indices: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, Metrics]:
        """The scalar that is minimized, and the metrics of a batch.

        Args:
            params: Parameters of the network.
            source: The samples.
            indices: Samples of the batch, integers (batch,).
            key: Random key of the source and the network. None: they draw no random numbers.

        Returns:
            The objective, a scalar, and its `Metrics`.
        """
        bounds, others = self.limited()
        limited = LimitedPenalties(bounds)
        x, target = source.batch(indices, key)
        noise = jax.random.fold_in(key, _NOISE) if self.noisy and key is not None else None
        tap = limited if bounds else None
        readout, activity = self.outputs(params, x, target, key=noise, limited=tap)
        loss = self.loss(readout, target).mean()
        penalty = sum(limited.penalties, start=total_penalty(others, activity.spikes))
        value = loss + penalty if self.supervised else penalty
        return value, self._metrics(loss, penalty, (readout, activity), target)

    def _metrics(
        self,
        loss: jax.Array,
        penalty: jax.Array,
        output: tuple[jax.Array, HasSpikes],
        target: Target,
    ) -> Metrics:
        readout, activity = output
        each = self.sample_scores(readout, target)
        scores = {name: s.mean(dtype=loss.dtype) for name, s in each.items()}
        rates = [sample_rates(activity, s, target).mean() for s in activity.spikes]
        return Metrics(loss, scores, penalty, jnp.asarray(rates))

    @property
    def value_and_gradient(self) -> Callable[..., tuple[tuple[jax.Array, Metrics], Params]]:
        """The function of the arguments of `value` that returns what it returns, and the gradient.

        The gradient is by backpropagation through time, or online by e-prop.
        """
        return self._online if self.online else jax.value_and_grad(self.value, has_aux=True)

    def _online(
        self, params: Params, source: BatchSource, indices: jax.Array, key: jax.Array | None = None
    ) -> tuple[tuple[jax.Array, Metrics], Params]:
        assert isinstance(self.apply, NetworkFn)  # e-prop needs a network
        x, target = source.batch(indices, key)
        network: EProp = self.apply.network(params)
        (each, output), gradient = network.gradient(x, target, self.loss)
        loss = each.mean()
        return (loss, self._metrics(loss, jnp.zeros_like(loss), output, target)), gradient


def is_separable(part: object) -> bool:
    """Whether a loss, regularizer or source treats samples independently (`separable`).

    The user's own functions and sources may lack this attribute; then they are not separable.
    """
    return isinstance(part, Separable) and part.separable


def steps_of_a_row(activity: HasSpikes, spikes: jax.Array) -> float:
    """Number of time steps per entry of the first axis of `spikes`.

    It is 1 for spike trains. For counts it is the length of a part of the trial.
    """
    steps = activity.steps if isinstance(activity, Activity) else None
    return 1 if steps is None else steps / len(spikes)


def sample_rates(activity: HasSpikes, spikes: jax.Array, target: Target) -> jax.Array:
    """Spikes per unit and step of each sample, (batch,), in at least float32.

    Args:
        activity: The activity of all layers.
        spikes: Spikes or counts of a layer, (time, batch, ...features).
        target: Targets of the batch. If they are `Timed`, only the steps of a trial count.
    """
    rates = spikes.mean(axis=(0, *range(2, spikes.ndim)), dtype=_check.wide(spikes.dtype))
    if isinstance(target, Timed):
        return rates * len(spikes) / target.num_steps
    return rates / steps_of_a_row(activity, spikes)


_RETURNS = "network must return the readout (time, batch, k), or (readout, activity with .spikes)"


def _described(out: object) -> str:
    parts = [type(part).__name__ for part in out] if isinstance(out, tuple | list) else ""
    return f"{type(out).__name__} {parts}".rstrip()
