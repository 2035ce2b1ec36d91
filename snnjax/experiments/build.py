"""Build networks, optimizers and regularizers from configurations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import nnx

from snnjax import _check, losses, models, optimizers, surrogate
from snnjax._check import Scalar
from snnjax.dynamics import LIF, ExcInhLIF, LeakyIntegrator, Neuron
from snnjax.experiments.config import TrainConfig
from snnjax.initializers import ikun_normal, kaiming_normal, lecun_normal, micheli_normal, normal
from snnjax.nn import DalianFluctuationDriven, FluctuationDriven, LayerInit, SameForAll, Sequential
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


def build_network(
    config: TrainConfig,
    *,
    in_features: int,
    num_classes: int,
    nu: float,
    duration: float,
    image: tuple[int, int, int] | None = None,
    sensory: bool = False,
    seed: Scalar | None = None,
) -> Sequential:
    """Build the network of a configuration.

    Args:
        config: The configuration.
        in_features: Number of input units.
        num_classes: Number of classes.
        nu: Input rate that the initialization assumes, Hz.
        duration: Length of a trial, s.
        image: Height, width and channels, whose product is `in_features`. None: the inputs are on a
            line.
        sensory: If True, inputs are pixel values instead of spikes.
        seed: Seed of the weights, traced or not. None: `config.seed`.

    >>> from snnjax.experiments import RandmanConfig
    >>> config = RandmanConfig(hidden=(64, 32))
    >>> network = build_network(config, in_features=20, num_classes=10, nu=5.0, duration=0.2)
    >>> [layer.out_features for layer in network.layers]
    [64, 32, 10]
    """
    rngs = nnx.Rngs(jax.random.key(config.seed if seed is None else seed))
    common: dict[str, Any] = {
        "tau_mem": config.tau_mem,
        "dt": config.dt,
        "spike": build_spike(config),
        "trace_dtype": config.trace_dtype,
    }
    neuron: Neuron = LIF(tau_syn=config.tau_syn, **common)
    if config.dalian:
        neuron = ExcInhLIF(tau_exc=config.tau_syn, tau_inh=config.tau_inh, **common)
    tau_readout = duration if config.tau_readout is None else config.tau_readout
    shared: dict[str, Any] = {
        "init": layer_init(config, nu),
        "neuron": neuron,
        "readout_neuron": LeakyIntegrator(
            tau_mem=tau_readout, tau_syn=config.tau_syn, dt=config.dt
        ),
        "recurrent": config.recurrent,
        "skip": config.skip,
        "remat_steps": config.remat_steps,
        "dropout": config.dropout,
        "trainable": tuple(name for name in vars(neuron) if name.startswith("tau_"))
        if config.learn_tau
        else (),
        "rngs": rngs,
    }
    network = _network(config, shared, in_features, num_classes, image, sensory)
    if config.gradient != "none":
        for layer in network.layers:
            if layer.spiking:
                layer.hold_steepness(scale=config.gradient == "scale")
    return network


def _network(
    config: TrainConfig,
    shared: dict[str, Any],
    in_features: int,
    num_classes: int,
    image: tuple[int, int, int] | None,
    sensory: bool,
) -> Sequential:
    """Build the network of the model that `config` names."""
    if config.dalian:
        shared["ei_ratio"] = config.ei_ratio
    if config.model in ("dense", "dalian"):
        return models.dense(
            in_features, num_classes, hidden=config.hidden, sensory=sensory, **shared
        )
    depth = int(config.model.rpartition("csnn")[2])
    if image is not None:
        shared["padding"] = config.conv_padding
        return models.csnn2d(
            image,
            num_classes,
            depth=depth,
            sensory=sensory,
            **shared,
        )
    return models.csnn(in_features, num_classes, depth=depth, **shared)


SURROGATES: dict[str, Callable[..., surrogate.SpikeFunction]] = {
    "superspike": surrogate.superspike,
    "superspike_rescaled": surrogate.superspike_rescaled,
    "superspike_asymptotic": surrogate.superspike_asymptotic,
    "fast_sigmoid": surrogate.fast_sigmoid,
    "atan": surrogate.atan,
    "triangular": surrogate.triangular,
    "sigmoid": surrogate.sigmoid,
}


def build_spike(config: TrainConfig) -> surrogate.SpikeFunction:
    """Return the spike function that `config` names."""
    factory = SURROGATES[config.surrogate]
    return factory() if config.beta is None else factory(config.beta)


FROM_DATA = ("data_driven", "data_driven_balanced", "lsuv")


def layer_init(config: TrainConfig, nu: float) -> LayerInit:
    """Return the initialization of the hidden layers."""
    if config.dalian:
        if config.init in FROM_DATA:  # rescaled later, so no formula may refuse the target here
            return DalianFluctuationDriven(nu=nu, alpha=config.alpha)
        return DalianFluctuationDriven(
            nu=nu,
            sigma_u=config.sigma_u,
            mu_u=config.mu_u,
            alpha=config.alpha,
            cv=1.0 if config.init == "lognormal" else None,
        )
    plain = {
        "kaiming": kaiming_normal,
        "lecun": lecun_normal,
        "normal": lambda: normal(config.mu_w, config.sigma_w),
        "micheli": lambda: micheli_normal(nu=nu, dt=config.dt),
        "ikun": lambda: ikun_normal(spike=build_spike(config)),
    }
    if config.init in plain:
        return SameForAll(plain[config.init]())
    if config.init in FROM_DATA:  # replaced later, so no formula may refuse the target here
        return FluctuationDriven(nu=nu, alpha=config.alpha)
    return FluctuationDriven(nu=nu, sigma_u=config.sigma_u, mu_u=config.mu_u, alpha=config.alpha)


def build_optimizer(
    config: TrainConfig, *, steps: int | None = None
) -> optax.GradientTransformation:
    """Return the optimizer that `config` names. It keeps Dalian weights >= 0.

    Args:
        config: The configuration.
        steps: Number of updates of the learning-rate schedule. None: the peak learning rate
            throughout.
    """
    optimizer = OPTIMIZERS[str(config.optimizer)](
        config.learning_rate if steps is None else learning_rate(config, steps)
    )
    return optax.chain(optimizer, optimizers.keep_nonnegative()) if config.dalian else optimizer


def learning_rate(config: TrainConfig, steps: int) -> Scalar | optax.Schedule:
    """Return a number, or an optax schedule `step -> value`, for a run of `steps` updates."""
    peak: Any = config.learning_rate
    if config.schedule == "constant":
        return peak
    warmup = steps // 10 if config.schedule == "warmup_cosine" else 0
    # one more step, so that the last update has a learning rate above 0
    cosine = optax.cosine_decay_schedule(peak, steps - warmup + 1)
    rise = optax.linear_schedule(peak / (warmup + 1), peak, max(warmup, 1))
    return optax.join_schedules([rise, cosine], [warmup]) if warmup else cosine


def updates_of(config: TrainConfig, samples: int) -> int:
    """Return the number of updates in a run on `samples` training samples."""
    return (config.priming_epochs + config.epochs) * (samples // min(config.batch_size, samples))


def build_objective(config: TrainConfig, *, duration: float) -> Objective:
    """Return the loss, and the upper and lower bounds whose strength is not 0.

    Args:
        config: The configuration.
        duration: Length of a trial, s.
    """
    # a traced strength is unknown
    used = lambda strength: (known := _check.concrete(strength)) is None or known > 0
    share = config.bound_share or None
    bounds: list[ActivityBound] = []
    if used(config.upper_strength):
        bounds.append(
            upper_bound(
                config.upper_strength,
                config.upper_rate * duration,
                pool=config.upper_pool,
                share=share,
            )
        )
    if config.lower_strength is not None and used(config.lower_strength):
        bounds.append(lower_bound(config.lower_strength, config.lower_threshold, share=share))
    return Objective(LOSSES[config.loss], bounds)
