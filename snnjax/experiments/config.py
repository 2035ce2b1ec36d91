"""Configurations of training runs. Every field is a flag of the command line."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from snnjax import _check
from snnjax.regularizers import Pool

Surrogate = Literal[
    "superspike",
    "superspike_rescaled",
    "superspike_asymptotic",
    "fast_sigmoid",
    "atan",
    "triangular",
    "sigmoid",
]
Model = Literal[
    "dense",
    "csnn1",
    "csnn3",
    "csnn7",
    "csnn10",
    "csnn2",
    "csnn4",
    "csnn6",
    "csnn8",
    "dalian",
    "dalian_csnn3",
]
WeightInit = Literal[
    "fluctuation_driven",
    "data_driven",
    "data_driven_balanced",
    "lsuv",
    "normal",
    "kaiming",
    "lecun",
    "micheli",
    "ikun",
    "lognormal",
]
DALIAN_INITS = ("fluctuation_driven", "lognormal", "data_driven")
Start = Literal["calibrated", "paper"]
Gradient = Literal["steepness", "scale", "none"]
TraceDtype = Literal["bfloat16", "float32"]
OptimizerName = Literal["muon", "smorms3", "adam", "sgd"]
Schedule = Literal["constant", "cosine", "warmup_cosine"]
LossName = Literal["max_over_time", "sum_over_time", "last_step", "mean_square"]


_STARTS: dict[str, dict[str, Any]] = {
    "calibrated": {
        "gradient": "steepness",
        "init": "data_driven",
        "optimizer": "muon",
        "learning_rate": 0.015,
        "schedule": "warmup_cosine",
        "lower_strength": 0.0,
        "bound_share": 1.0,
    },
    "paper": {
        "gradient": "none",
        "init": "fluctuation_driven",
        "optimizer": "smorms3",
        "learning_rate": 0.005,
        "schedule": "constant",
        "lower_strength": 100.0,
        "bound_share": 0.0,
    },
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Fields that all tasks share: network, initialization, training.

    Times are in seconds and rates in hertz. The default time constants are those of the paper.
    """

    plane: ClassVar[bool] = False

    start: Start = "calibrated"
    """Settings at the start of training. `calibrated`: membranes and gradients are calibrated on
    training data, and the size of the first step does not grow with depth. `paper`: the published
    settings of Rossbroich, Gygax & Zenke (2022). Flags that are not given take their value from
    here."""
    model: Model = "dense"
    """`dense`: dense layers (see `hidden`). `csnnN`: N convolutional layers, with N = 1, 3, 7 or 10
    over a line of input units (`snnjax.models.csnn`), and N = 2, 4, 6 or 8 over images
    (`snnjax.models.csnn2d`). `dalian`, `dalian_csnn3`: dense or convolutional layers over a line,
    with Dale's law."""
    hidden: tuple[int, ...] = (128,)
    """Neurons of each hidden layer for `dense`; excitatory neurons for `dalian`."""
    ei_ratio: float = 4.0
    """Excitatory neurons (or feature maps) per inhibitory one, with Dale's law."""
    recurrent: bool = False
    """Add recurrent connections to every hidden layer."""
    skip: bool = False
    """Connect every hidden layer to the readout, not only the last one."""
    remat_steps: int | None = None
    """Number of time steps whose traces are stored at once for the gradient. Other traces are
    computed again, which saves memory and costs time. None: store all."""
    trace_dtype: TraceDtype | None = None
    """Dtype of the membranes that hidden layers store for the gradient. bfloat16 halves the memory.
    None: the dtype of the membranes."""
    events: bool | None = None
    """Pass input spikes to a dense first layer as lists of events instead of arrays. Results are
    equal up to rounding. None: if that is faster."""
    dropout: float = 0.0
    """Probability that a hidden neuron is dropped for a training trial."""
    tau_mem: float = 20e-3
    """Membrane time constant, s."""
    tau_syn: float = 10e-3
    """Synaptic time constant, s; with Dale's law, of excitation."""
    tau_inh: float = 20e-3
    """Synaptic time constant of inhibition with Dale's law, s."""
    tau_readout: float | None = None
    """Time constant of the readout, s. None: the duration of a trial."""
    learn_tau: bool = False
    """Train all time constants of every hidden neuron."""
    dt: float = 2e-3
    """Time step, s."""
    surrogate: Surrogate = "superspike"
    """Surrogate derivative of a spike."""
    beta: float | None = None
    """Parameter of the surrogate: beta, slope or alpha (steepness), or the width of `triangular`.
    None: the default of the function, 20 for superspike."""

    gradient: Gradient | None = None
    """Calibrate the backward gain of every layer on training data, by the steepness or the scale of
    its surrogate. `none`: no calibration. None: `steepness` with start `calibrated`, `none` with
    start `paper`."""
    logit_spread: float = 0.3
    """If the gradient is calibrated, the readout is scaled so that the logits of a sample have this
    standard deviation over classes."""
    init: WeightInit | None = None
    """Initialization of hidden weights. `fluctuation_driven`: the formula of the paper.
    `data_driven`: measured on training data; `_balanced`: with zero sum for each neuron. `lsuv`:
    scaled until each layer fires at `lsuv_rate`. `normal`: with `mu_w` and `sigma_w`. Other names
    are rules for comparison. With Dale's law the formula draws exponential weights, or `lognormal`
    ones. None: `data_driven` with start `calibrated`, `fluctuation_driven` with start `paper`."""
    calibration_samples: int = 200
    """Training samples for an initialization from data; for images, also for the measurement of
    `nu`."""
    lsuv_rate: float = 10.0
    """Target rate of every layer for `lsuv`, Hz."""
    sigma_u: float = 1.0
    """Target standard deviation of the membrane (threshold 1)."""
    mu_u: float = 0.0
    """Target mean of the membrane."""
    mu_w: float = 0.0
    """Mean of the hidden weights, for `normal`."""
    sigma_w: float = 1.0
    """Standard deviation of the hidden weights, for `normal`."""
    nu: float | None = None
    """Input rate that the initialization assumes, Hz. None: the mean rate of the training data,
    before augmentation."""
    alpha: float = 0.9
    """Feed-forward fraction of the membrane variance in recurrent layers."""

    optimizer: OptimizerName | None = None
    """Optimizer. None: `muon`, whose steps are relative to the weights, with start `calibrated`,
    `smorms3` with start `paper`."""
    learning_rate: float | None = None
    """Learning rate. None: 0.015 with start `calibrated`, 0.005 with start `paper`."""
    schedule: Schedule | None = None
    """Learning rate over the run. `constant`; `cosine`: decay to 0 along a cosine; `warmup_cosine`:
    a linear increase over the first 10 %, then the cosine. None: `warmup_cosine` with start
    `calibrated`, `constant` with start `paper`."""
    epochs: int = 200
    """Passes over the training data."""
    priming_epochs: int = 0
    """Passes before training that use only the two bounds (homeostatic priming)."""
    batch_size: int = 250
    """Samples per step, at most the size of the training set."""
    loss: LossName = "max_over_time"
    """Cross-entropy of the readout trace, reduced over time as named, or the mean square distance
    to 1 for the correct class and 0 for the others."""
    upper_strength: float = 0.1
    """Upper bound on the mean activity of a layer: strength (0: no bound)."""
    upper_rate: float = 10.0
    """Upper bound: rate, Hz."""
    upper_pool: Pool = "population"
    """Upper bound: applies to the mean activity of a layer, of each feature map, or of each
    neuron."""
    lower_strength: float | None = None
    """Lower bound on the activity of each neuron: strength (0: no bound). None: 0 with start
    `calibrated`, 100 with start `paper`."""
    lower_threshold: float = 1e-3
    """Lower bound: spikes per neuron and trial."""

    bound_share: float | None = None
    """Both bounds: the largest gradient of a bound in every layer, as a multiple of the gradient
    from the layers above. 0: no limit. None: 1 with start `calibrated`, 0 with start `paper`. There
    is no limit if `remat_steps` divides trials into parts."""

    augment_shift: int = 0
    """Augmentation: shift each training sample by up to this number of input units."""
    augment_stretch: float = 0.0
    """Augmentation: stretch or compress each training sample in time by up to this fraction."""
    augment_drop: float = 0.0
    """Augmentation: remove each training event with this probability."""
    augment_time_jitter: float = 0.0
    """Augmentation: move each training event in time by a normal random number with this standard
    deviation, s."""
    augment_unit_jitter: float = 0.0
    """Augmentation: move each training event by a normal random number of input units with this
    standard deviation."""
    augment_insert: float = 0.0
    """Augmentation: insert events at random places into each training sample, on average this
    fraction of its events."""

    seed: int = 0
    """Seed of the weights and of the order of samples."""
    out: Path | None = None
    """Run folder. None: a new folder in ./runs."""

    @property
    def sensor(self) -> tuple[int, int, int] | None:
        """Height, width and channels of events on a plane. None: events on a line, or images."""
        return None

    @property
    def streamed(self) -> bool:
        """Whether training data are read from the disk in each epoch."""
        return False

    @property
    def conv_padding(self) -> int | Literal["same"]:
        """Padding of two-dimensional convolutions."""
        return "same"

    @property
    def dalian(self) -> bool:
        """Whether the model obeys Dale's law."""
        return self.model.startswith("dalian")

    @property
    def depth(self) -> int:
        """Number of hidden layers."""
        digits = "".join(filter(str.isdigit, self.model))
        return int(digits) if digits else len(self.hidden)

    def __post_init__(self) -> None:
        _check.one_of("start", self.start, get_args(Start))
        for name, value in _STARTS[self.start].items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        if not self.hidden:
            raise ValueError("hidden must have at least one layer, got none")
        for n in self.hidden:
            _check.integer("hidden", n, at_least=1)
        for name in ("tau_mem", "tau_syn", "tau_inh", "dt"):
            _check.number(name, getattr(self, name), above=0, unit="s")
        for name, options in (
            ("upper_pool", Pool),
            ("surrogate", Surrogate),
            ("gradient", Gradient),
            ("init", WeightInit),
            ("optimizer", OptimizerName),
            ("schedule", Schedule),
            ("loss", LossName),
        ):
            _check.one_of(name, getattr(self, name), get_args(options))
        models = (
            "dense",
            *(
                ("csnn2", "csnn4", "csnn6", "csnn8")
                if self.plane
                else ("csnn1", "csnn3", "csnn7", "csnn10", "dalian", "dalian_csnn3")
            ),
        )
        _check.one_of("model", self.model, models)  # for inputs on a line or on a plane
        _check.number("ei_ratio", self.ei_ratio, above=0)
        if self.dalian and self.init not in DALIAN_INITS:
            allowed = ", ".join(map(repr, DALIAN_INITS))
            raise ValueError(f"init must be one of {allowed} with Dale's law, got {self.init!r}")
        if self.init == "lognormal" and not self.dalian:
            raise ValueError(
                "init 'lognormal' needs a model with Dale's law, 'dalian' or 'dalian_csnn3', "
                f"got {self.model!r}"
            )
        _check.number("dropout", self.dropout, at_least=0, below=1)
        for name in ("recurrent", "skip", "learn_tau"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, got {getattr(self, name)!r}")
        if self.trace_dtype is not None:
            _check.one_of("trace_dtype", self.trace_dtype, get_args(TraceDtype))
        if self.events is not None and not isinstance(self.events, bool):
            raise TypeError(f"events must be True, False or None, got {self.events!r}")
        for name in ("tau_readout", "nu", "beta"):
            if getattr(self, name) is not None:
                _check.number(name, getattr(self, name), above=0)
        for name in ("sigma_u", "learning_rate", "lsuv_rate", "logit_spread"):
            _check.number(name, getattr(self, name), above=0)
        _check.number("mu_u", self.mu_u, below=1)
        _check.number("mu_w", self.mu_w)
        _check.number("sigma_w", self.sigma_w, at_least=0)
        _check.number("alpha", self.alpha, above=0, below=1)
        for name in ("epochs", "batch_size", "calibration_samples"):
            _check.integer(name, getattr(self, name), at_least=1)
        if self.remat_steps is not None:
            _check.integer("remat_steps", self.remat_steps, at_least=1)
        for name in ("upper_strength", "upper_rate", "lower_strength", "lower_threshold"):
            _check.number(name, getattr(self, name), at_least=0)
        _check.number("bound_share", self.bound_share, at_least=0)
        _check.integer("priming_epochs", self.priming_epochs, at_least=0)
        known = _check.concrete(self.lower_strength)
        if self.priming_epochs and known is not None and known == 0:
            raise ValueError(
                "lower_strength must be > 0 for priming_epochs, which use only the bounds, got 0"
            )
        _check.integer("augment_shift", self.augment_shift, at_least=0)
        for name in ("augment_stretch", "augment_drop"):
            _check.number(name, getattr(self, name), at_least=0, below=1)
        _check.number("augment_time_jitter", self.augment_time_jitter, at_least=0, unit="s")
        _check.number("augment_unit_jitter", self.augment_unit_jitter, at_least=0)
        _check.number("augment_insert", self.augment_insert, at_least=0, at_most=100)
        _check.integer("seed", self.seed, at_least=0, at_most=2**31 - 1)
