"""What a training run is: frozen configurations whose every field is a flag of the command line."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

from snnjax import _check
from snnjax.regularizers import Pool

Surrogate = Literal["superspike", "superspike_rescaled", "superspike_asymptotic", "fast_sigmoid", "atan", "triangular", "sigmoid"]
Model = Literal["dense", "csnn1", "csnn3", "csnn7", "csnn10", "csnn2", "csnn4", "csnn6", "csnn8", "dalian", "dalian_csnn3"]
WeightInit = Literal[
    "fluctuation_driven", "data_driven", "data_driven_balanced", "lsuv", "normal", "kaiming", "lecun", "micheli", "ikun", "lognormal"
]  # fmt: skip
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
    """What every task has: network, initialization, training. Times in seconds, rates in hertz. Time constants are the paper's."""

    plane: ClassVar[bool] = False

    start: Start = "calibrated"
    """Where training starts from. `calibrated`: membranes and gradients on target for the training data, and a first step that depth does not
    make too large. `paper`: the published settings of Rossbroich, Gygax & Zenke (2022). Flags without a value of their own take it from here."""
    model: Model = "dense"
    """Dense layers, `hidden` of them; or a convolutional network of so many layers: 1, 3, 7 or 10 over a line of input units
    (`snnjax.models.csnn`), 2, 4, 6 or 8 over images (`snnjax.models.csnn2d`); or, over a line, `dalian` layers or three convolutions with Dale's law."""
    hidden: tuple[int, ...] = (128,)
    """Neurons of each hidden layer, for `dense`; excitatory ones, for `dalian`."""
    ei_ratio: float = 4.0
    """Excitatory neurons (or feature maps) for each inhibitory one, with Dale's law."""
    recurrent: bool = False
    """Connect every hidden layer with itself."""
    skip: bool = False
    """Connect every hidden layer to the readout, not the last one alone."""
    remat_steps: int | None = None
    """Keep only so many time steps' traces for the gradient, and compute the others again: less memory, more time. None: all."""
    trace_dtype: TraceDtype | None = None
    """Type in which hidden layers keep their membranes for the gradient: bfloat16 takes half the bytes. None: the membranes' own."""
    events: bool | None = None
    """Give a dense first layer its input spikes as lists of events instead of arrays: the same numbers to rounding. None: where that is faster."""
    dropout: float = 0.0
    """Probability that a hidden neuron is left out of a training trial."""
    tau_mem: float = 20e-3
    """Membrane time constant, s."""
    tau_syn: float = 10e-3
    """Synaptic time constant, s; with Dale's law that of excitation."""
    tau_inh: float = 20e-3
    """Synaptic time constant of inhibition, with Dale's law, s."""
    tau_readout: float | None = None
    """Time constant of the readout, s; None: the trial's duration."""
    learn_tau: bool = False
    """Train all time constants of every hidden neuron."""
    dt: float = 2e-3
    """Time step, s."""
    surrogate: Surrogate = "superspike"
    """Surrogate derivative of a spike."""
    beta: float | None = None
    """Its parameter: beta, slope or alpha (steepness), or the width of `triangular`; None: the default of the function, 20 for superspike."""

    gradient: Gradient | None = None
    """Calibrate every layer's backward gain on training data by the steepness of its surrogate, or by a scale of it; `none`: leave it as it is.
    None: `steepness` with the calibrated start, `none` with the paper's."""
    logit_spread: float = 0.3
    """Where the gradient is calibrated: standard deviation over classes of a sample's logits, to which the readout is scaled."""
    init: WeightInit | None = None
    """How hidden weights are drawn: the paper's formula; measured on training data (balanced: zero sum for each neuron; lsuv: scaled until
    each layer fires at `lsuv_rate`); `normal` with `mu_w` and `sigma_w`; or, for comparison, the rule named. With Dale's law the formula draws
    exponential weights, or `lognormal` ones. None: `data_driven` with the calibrated start, `fluctuation_driven` with the paper's."""
    calibration_samples: int = 200
    """Training samples that an initialization from data looks at; of images also those whose sensory rate is `nu`."""
    lsuv_rate: float = 10.0
    """Rate that every layer is scaled to by `lsuv`, Hz."""
    sigma_u: float = 1.0
    """Target standard deviation of the membrane (threshold 1)."""
    mu_u: float = 0.0
    """Target mean of the membrane."""
    mu_w: float = 0.0
    """Mean of the hidden weights, for `normal`."""
    sigma_w: float = 1.0
    """Standard deviation of the hidden weights, for `normal`."""
    nu: float | None = None
    """Rate of the inputs that the initialization assumes, Hz; None: the training data's mean rate, before augmentation."""
    alpha: float = 0.9
    """Feed-forward fraction of the membrane's variance in recurrent layers."""

    optimizer: OptimizerName | None = None
    """Optimizer. None: `muon`, whose steps are relative to the weights, with the calibrated start, `smorms3` with the paper's."""
    learning_rate: float | None = None
    """Learning rate. None: 0.015 with the calibrated start, 0.005 with the paper's."""
    schedule: Schedule | None = None
    """Learning rate over the run: constant, falling to 0 along a cosine, or that after a linear rise over its first 10 %. None: `warmup_cosine` with the
    calibrated start, `constant` with the paper's."""
    epochs: int = 200
    """Passes over the training data."""
    priming_epochs: int = 0
    """Before them, passes on the two bounds alone (homeostatic priming)."""
    batch_size: int = 250
    """Samples a step; at most the training set."""
    loss: LossName = "max_over_time"
    """Cross-entropy of what the readout trace becomes over time, or mean square distance to 1 for the class and 0 for the others."""
    upper_strength: float = 0.1
    """Upper bound on a layer's mean activity: strength (0: none)."""
    upper_rate: float = 10.0
    """Upper bound: rate, Hz."""
    upper_pool: Pool = "population"
    """Upper bound: on the mean activity of a whole layer, of each feature map, or of each neuron."""
    lower_strength: float | None = None
    """Lower bound on each neuron's activity: strength (0: none). None: 0 with the calibrated start, 100 with the paper's."""
    lower_threshold: float = 1e-3
    """Lower bound: spikes a neuron a trial."""

    bound_share: float | None = None
    """Both bounds: in every layer, the largest gradient of a bound as a multiple of the loss's; 0: not limited. None: 1 with the calibrated
    start, 0 with the paper's. Not limited where `remat_steps` cuts trials into parts."""

    augment_shift: int = 0
    """Augmentation: shift each training sample by up to so many input units."""
    augment_stretch: float = 0.0
    """Augmentation: stretch or compress each training sample in time by up to this fraction."""
    augment_drop: float = 0.0
    """Augmentation: leave out each training event with this probability."""
    augment_time_jitter: float = 0.0
    """Augmentation: move each training event in time by a normal number with this standard deviation, s."""
    augment_unit_jitter: float = 0.0
    """Augmentation: move each training event by a normal number of input units with this standard deviation."""
    augment_insert: float = 0.0
    """Augmentation: put events at random places into each training sample, this fraction of its own on average."""

    seed: int = 0
    """Of weights and of the samples' order."""
    out: Path | None = None
    """Run folder; None: a new one under ./runs."""

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
            raise ValueError("hidden must name at least one layer, got none")
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
            *(("csnn2", "csnn4", "csnn6", "csnn8") if self.plane else ("csnn1", "csnn3", "csnn7", "csnn10", "dalian", "dalian_csnn3")),
        )
        _check.one_of("model", self.model, models)  # of a line or a plane, as the task's inputs are
        _check.number("ei_ratio", self.ei_ratio, above=0)
        if self.dalian and self.init not in DALIAN_INITS:
            raise ValueError(f"init must be one of {', '.join(map(repr, DALIAN_INITS))} with Dale's law, got {self.init!r}")
        if self.init == "lognormal" and not self.dalian:
            raise ValueError(f"init 'lognormal' needs a model with Dale's law, 'dalian' or 'dalian_csnn3', got {self.model!r}")
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
            raise ValueError("lower_strength must be > 0 for priming_epochs, which train on the lower bound alone, got 0")
        _check.integer("augment_shift", self.augment_shift, at_least=0)
        for name in ("augment_stretch", "augment_drop"):
            _check.number(name, getattr(self, name), at_least=0, below=1)
        _check.number("augment_time_jitter", self.augment_time_jitter, at_least=0, unit="s")
        _check.number("augment_unit_jitter", self.augment_unit_jitter, at_least=0)
        _check.number("augment_insert", self.augment_insert, at_least=0, at_most=100)
        _check.integer("seed", self.seed, at_least=0, at_most=2**31 - 1)
