"""Build the network, the objective and the optimizer of an experiment."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from snnjax import _check, initializers, losses, models, optimizers, surrogate
from snnjax._check import Scalar
from snnjax.dynamics import LIF, AdLIF, ExcInhLIF, Leaky, LeakyIntegrator, Neuron, Uniform
from snnjax.experiments import _parts as parts
from snnjax.experiments._experiment import Experiment
from snnjax.nn import (
    BatchNorm,
    DalianFluctuationDriven,
    Delays,
    FluctuationDriven,
    LayerInit,
    SameForAll,
    Sequential,
)
from snnjax.regularizers import ActivityBound, lower_bound, upper_bound
from snnjax.training._objective import Objective

LOSSES: dict[str, losses.CrossEntropy | losses.MeanSquare] = {
    "max_over_time": losses.CrossEntropy(losses.max_over_time),
    "sum_over_time": losses.CrossEntropy(losses.sum_over_time),
    "last_step": losses.CrossEntropy(losses.last_step),
    "mean_square": losses.MeanSquare(losses.sum_over_time),
}
OPTIMIZERS: dict[str, Callable[[Any], optax.GradientTransformation]] = {
    "muon": optimizers.muon,
    "smorms3": optimizers.smorms3,
    "adam": optax.adam,
    "sgd": optax.sgd,
}


class Inputs(NamedTuple):
    """What a network needs to know of its data.

    Attributes:
        in_features: Number of input units.
        num_classes: Number of classes.
        duration: Length of a trial, s.
        nu: Input rate that the initialization assumes, Hz.
        image: Height, width and channels, whose product is `in_features`. None: the inputs are on a
            line.
        sensory: If True, inputs are pixel values instead of spikes.
        samples: Number of training samples. None: not known; learned delays keep their first width.
    """

    in_features: int
    num_classes: int
    duration: float
    nu: float
    image: tuple[int, int, int] | None = None
    sensory: bool = False
    samples: int | None = None


def build_network(
    experiment: Experiment, inputs: Inputs, *, seed: Scalar | None = None
) -> Sequential:
    """Build the network of an experiment, before anything is measured on data.

    Args:
        experiment: The experiment.
        inputs: What the network needs to know of its data.
        seed: Seed of the weights, traced or not. None: that of the experiment.

    >>> experiment = Experiment.from_options("randman", hidden=(64, 32))
    >>> network = build_network(experiment, Inputs(20, 10, duration=0.2, nu=5.0))
    >>> [layer.out_features for layer in network.layers]
    [64, 32, 10]
    """
    spec, network = experiment.neuron, experiment.network
    neuron = build_neuron(experiment)
    adaptation = ("a", "b") if isinstance(spec, parts.AdLIF) and spec.learn_adaptation else ()
    taus = [name for name in neuron.parameters() if name.startswith("tau_") and spec.learn_tau]
    tau_readout = inputs.duration if spec.tau_readout is None else spec.tau_readout
    options: dict[str, Any] = {
        "init": layer_init(experiment, inputs.nu),
        "neuron": neuron,
        "readout_neuron": LeakyIntegrator(tau_mem=tau_readout, tau_syn=spec.tau_syn, dt=spec.dt),
        "recurrent": network.recurrent,
        "bias": network.bias,
        "norm": BatchNorm() if network.norm else None,
        "skip": network.skip,
        "remat_steps": experiment.training.remat_steps,
        "dropout": network.dropout,
        "trainable": (*taus, *adaptation),
        "rngs": nnx.Rngs(jax.random.key(experiment.seed if seed is None else seed)),
    }
    if isinstance(network, parts.WithDale):
        options["ei_ratio"] = network.ei_ratio
    built = _stack(experiment, inputs, options)
    gradient = experiment.start.gradient
    if isinstance(gradient, parts.CalibratedGradient):
        for layer in built.layers:
            if layer.spiking:
                layer.hold_steepness(scale=isinstance(gradient, parts.Scale))
    return built


def _stack(experiment: Experiment, inputs: Inputs, options: dict[str, Any]) -> Sequential:
    """Return the layers of the network."""
    network, units = experiment.network, inputs.in_features
    sensory = inputs.sensory and build_lif(experiment)
    if isinstance(network, parts.Dense):
        own = {"hidden": network.widths, "sensory": sensory}
        if network.max_delay is not None:
            own["delays"] = _delays(experiment, network, network.max_delay, inputs.samples)
        return models.dense(units, inputs.num_classes, **own, **options)
    depth = network.num_layers
    if inputs.image is None:
        return models.csnn(units, inputs.num_classes, depth=depth, **options)
    own = {"padding": experiment.task.conv_padding, "sensory": sensory}
    return models.csnn2d(inputs.image, inputs.num_classes, depth=depth, **own, **options)


def build_lif(experiment: Experiment) -> LIF:
    """Return the model of sensory neurons, which are equal and have a synaptic current."""
    spec = experiment.neuron
    options: dict[str, Any] = {"tau_mem": spec.tau_mem, "tau_syn": spec.tau_syn, "dt": spec.dt}
    return LIF(spike=build_spike(spec), trace_dtype=experiment.training.trace_dtype, **options)


def build_neuron(experiment: Experiment) -> Neuron:
    """Return the model of the hidden neurons."""
    spec, network = experiment.neuron, experiment.network

    def drawn(value: float) -> Any:
        ends = value * (1 - spec.spread), value * (1 + spec.spread)
        return Uniform(*ends) if spec.spread and value else value

    common: dict[str, Any] = {"tau_mem": drawn(spec.tau_mem), "dt": spec.dt}
    common["spike"] = build_spike(spec)
    if isinstance(spec, parts.AdLIF):
        return AdLIF(tau_w=drawn(spec.tau_w), a=drawn(spec.a), b=drawn(spec.b), **common)
    common["trace_dtype"] = experiment.training.trace_dtype
    if isinstance(spec, parts.Leaky):
        return Leaky(**common)
    tau_syn = drawn(spec.tau_syn)
    if isinstance(network, parts.WithDale):
        return ExcInhLIF(tau_exc=tau_syn, tau_inh=drawn(network.tau_inh), **common)
    return LIF(tau_syn=tau_syn, **common)


@dataclasses.dataclass(frozen=True)
class _Narrowing:
    """A schedule from `width` linearly to 0. Equal ones are interchangeable, unlike those of optax.

    Attributes:
        width: Width before training, s.
        updates: Number of updates after which it is 0.
    """

    width: float
    updates: int

    def __call__(self, update: Scalar) -> Scalar:
        return self.width * jnp.maximum(0, 1 - update / self.updates)


def _delays(
    experiment: Experiment, network: parts.Dense, max_delay: float, samples: int | None
) -> Delays:
    """Return the delays of the hidden layers."""
    width: Any = max_delay / 2 if network.delay_width is None else network.delay_width
    if samples is not None:
        width = _Narrowing(width, max(1, updates_of(experiment, samples) // 2))
    return Delays(max_delay=max_delay, per=network.delays, width=width)


def build_spike(neuron: parts.Neuron) -> surrogate.SpikeFunction:
    """Return the spike function that the options of the neuron name."""
    factory: Callable[..., surrogate.SpikeFunction] = getattr(surrogate, neuron.surrogate)
    return factory() if neuron.beta is None else factory(neuron.beta)


def layer_init(experiment: Experiment, nu: float) -> LayerInit:
    """Return the initialization of the hidden layers.

    Weights that are measured on data later have a target here that no formula refuses.
    """
    weights, neuron = experiment.start.weights, experiment.neuron
    match weights:
        case parts.Kaiming():
            return SameForAll(initializers.kaiming_normal())
        case parts.LeCun():
            return SameForAll(jax.nn.initializers.lecun_normal())
        case parts.Micheli():
            return SameForAll(initializers.micheli_normal(nu=nu, dt=neuron.dt))
        case parts.IKUN():
            return SameForAll(initializers.ikun_normal(spike=build_spike(neuron)))
        case parts.Normal():
            return SameForAll(initializers.normal(weights.mu_w, weights.sigma_w))
    target: dict[str, Any] = {}
    if isinstance(weights, parts.OnTarget):
        target["alpha"] = weights.alpha
        if not weights.from_data:
            target |= {"sigma_u": weights.sigma_u, "mu_u": weights.mu_u}
    if not experiment.network.dalian:
        return FluctuationDriven(nu=nu, **target)
    cv = 1.0 if isinstance(weights, parts.Lognormal) else None
    return DalianFluctuationDriven(nu=nu, cv=cv, **target)


def build_optimizer(
    experiment: Experiment, *, samples: int | None = None
) -> optax.GradientTransformation:
    """Return the optimizer of an experiment. It keeps Dalian weights >= 0.

    Args:
        experiment: The experiment.
        samples: Number of training samples, for the learning-rate schedule. None: the learning
            rate is constant.
    """
    rate = (
        experiment.optimizer.learning_rate
        if samples is None
        else learning_rate(experiment, updates_of(experiment, samples))
    )
    optimizer = OPTIMIZERS[experiment.optimizer.name](rate)
    if not experiment.network.dalian:
        return optimizer
    return optax.chain(optimizer, optimizers.keep_nonnegative())


def learning_rate(experiment: Experiment, steps: int) -> Scalar | optax.Schedule:
    """Return a number, or an optax schedule `step -> value`, for a run of `steps` updates."""
    peak, schedule = experiment.optimizer.learning_rate, experiment.training.schedule
    if schedule == "constant":
        return peak
    warmup = steps // 10 if schedule == "warmup_cosine" else 0
    # one more step, so that the last update has a learning rate above 0
    cosine = optax.cosine_decay_schedule(peak, steps - warmup + 1)
    rise = optax.linear_schedule(peak / (warmup + 1), peak, max(warmup, 1))
    return optax.join_schedules([rise, cosine], [warmup]) if warmup else cosine


def updates_of(experiment: Experiment, samples: int) -> int:
    """Return the number of updates in a run on `samples` training samples."""
    training = experiment.training
    return (training.priming_epochs + training.epochs) * (samples // training.batch_size)


def build_objective(experiment: Experiment, *, duration: float) -> Objective:
    """Return the loss, and the upper and lower bounds whose strength is not 0.

    Args:
        experiment: The experiment.
        duration: Length of a trial, s.
    """
    spec = experiment.objective
    # a traced strength is unknown
    used = lambda strength: (known := _check.concrete(strength)) is None or known > 0
    share = spec.bound_share or None
    bounds: list[ActivityBound] = []
    if used(spec.upper_strength):
        most, pool = spec.upper_rate * duration, spec.upper_pool
        bounds.append(upper_bound(spec.upper_strength, most, pool=pool, share=share))
    if used(spec.lower_strength):
        bounds.append(lower_bound(spec.lower_strength, spec.lower_threshold, share=share))
    return Objective(LOSSES[spec.loss], bounds)
