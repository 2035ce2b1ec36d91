"""The parts of an experiment: network, neuron, start, objective, optimizer, training.

Each part is a frozen dataclass. Every field is an option of the experiment, a flag of the command
line (`sigma_u`: `--sigma-u`), and a name that a sweep can vary. A choice between classes is made by
the class's `name`, for example `--init lsuv`. A class has only the fields that it uses.

No part loads JAX, so that the command line shows its help at once. Times are in seconds and rates
in hertz. The default time constants are those of Rossbroich, Gygax & Zenke (2022), doi
10.1088/2634-4386/ac97bb.
"""

from __future__ import annotations

import dataclasses
from typing import Annotated, ClassVar, Literal

from snnjax import _check
from snnjax.experiments._options import (
    Count,
    Fraction,
    Natural,
    NonNegative,
    Part,
    Positive,
    Probability,
    Range,
    Seconds,
)

Surrogate = Literal[
    "superspike",
    "superspike_rescaled",
    "superspike_asymptotic",
    "fast_sigmoid",
    "atan",
    "triangular",
    "sigmoid",
]
TraceDtype = Literal["bfloat16", "float32"]
Schedule = Literal["constant", "cosine", "warmup_cosine"]
LossName = Literal["max_over_time", "sum_over_time", "last_step", "mean_square"]
UpperPool = Literal["population", "feature_map", "neuron"]
DelayPer = Literal["unit", "connection"]


class Network(Part):
    """Options that all networks share."""

    dalian: ClassVar[bool] = False

    recurrent: bool = False
    """Add recurrent connections to every hidden layer."""
    bias: bool = False
    """Add a trained constant to the drive of every neuron, also of the readout."""
    norm: bool = False
    """Normalize the drive of every hidden layer over each training batch."""
    skip: bool = False
    """Connect every hidden layer to the readout, not only the last one."""
    dropout: Probability = 0.0
    """Probability that a hidden neuron is dropped for a training trial."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm and self.bias:
            raise ValueError("bias must be False with norm, whose shift is a bias, got True")

    @property
    def num_layers(self) -> int:
        """Number of hidden layers."""
        raise NotImplementedError


class Dense(Network):
    """Dense layers."""

    name = "dense"

    hidden: tuple[int, ...] = (128,)
    """Neurons of each hidden layer; with Dale's law, excitatory neurons."""
    depth: Count | None = None
    """Number of hidden layers, if all have the one number of neurons in `hidden`. None: one layer
    per number in `hidden`."""
    max_delay: Seconds | None = None
    """Largest learned delay of the hidden layers, s. None: no delays."""
    delays: DelayPer = "unit"
    """One learned delay for each sending unit, or for each connection."""
    delay_width: Seconds | None = None
    """Width of the delays' kernels at the start of training, s. It decreases linearly to 0 over the
    first half of the updates. None: half of `max_delay`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.hidden:
            raise ValueError("hidden must have at least one layer, got none")
        for n in self.hidden:
            _check.integer("hidden", n, at_least=1)
        if self.depth is not None and len(self.hidden) > 1:
            rule = "depth must be None (left out) if hidden names every layer"
            raise ValueError(f"{rule}, got depth {self.depth} and hidden {self.hidden}")
        if self.dalian and self.delays == "connection":
            raise ValueError(f"delays must be 'unit' with Dale's law, got {self.delays!r}")

    @property
    def widths(self) -> tuple[int, ...]:
        """Neurons of each hidden layer, one number per layer."""
        return self.hidden * (self.depth or 1)

    @property
    def num_layers(self) -> int:
        return len(self.widths)


class CSNN(Network):
    """Convolutional layers: over a line of units (`models.csnn`) or a plane (`models.csnn2d`)."""

    name = "csnn"

    depth: int = 3
    """Number of convolutional layers: 1, 3, 7 or 10 over a line of units; 2, 4, 6 or 8, in blocks
    of two with max-pooling, over a plane."""

    @property
    def num_layers(self) -> int:
        return self.depth


class WithDale(Network):
    """Options of networks with Dale's law."""

    dalian = True

    ei_ratio: Positive = 4.0
    """Excitatory neurons (or feature maps) per inhibitory one."""
    tau_inh: Seconds = 20e-3
    """Synaptic time constant of inhibition, s; `tau_syn` is that of excitation."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.norm:
            raise ValueError("norm must be False with Dale's law, got True: it changes signs")


class Dalian(WithDale, Dense):
    """Dense layers with Dale's law."""

    name = "dalian"


class DalianCSNN(WithDale, CSNN):
    """Convolutional layers over a line of units, with Dale's law."""

    name = "dalian_csnn"


class Neuron(Part):
    """Options that all hidden neurons share, and the readout's integrators."""

    traced = ("beta",)

    tau_mem: Seconds = 20e-3
    """Membrane time constant, s."""
    tau_syn: Seconds = 10e-3
    """Synaptic time constant, s: of `lif` and of the readout; with Dale's law, of excitation."""
    tau_readout: Seconds | None = None
    """Time constant of the readout, s. None: the duration of a trial."""
    learn_tau: bool = False
    """Train all time constants of every hidden neuron."""
    spread: Probability = 0.0
    """Time constants and strengths of adaptation of the hidden neurons are drawn, one per neuron,
    between 1 - spread and 1 + spread times their values. 0: all neurons are equal."""
    dt: Seconds = 2e-3
    """Time step, s."""
    surrogate: Surrogate = "superspike"
    """Surrogate derivative of a spike."""
    beta: Positive | None = None
    """Parameter of the surrogate: beta, slope or alpha (steepness), or the width of `triangular`.
    None: the default of the function, 20 for superspike."""


class LIF(Neuron):
    """Leaky integrate-and-fire neurons with a synaptic current."""

    name = "lif"


class Leaky(Neuron):
    """Leaky integrate-and-fire neurons without a synaptic current."""

    name = "leaky"


class AdLIF(Neuron):
    """Adaptive neurons that can oscillate (SE-adLIF)."""

    name = "adlif"

    tau_w: Seconds = 150e-3
    """Time constant of the adaptation, s."""
    a: NonNegative = 0.5
    """Strength of the adaptation by the membrane."""
    b: NonNegative = 1.0
    """Strength of the adaptation by spikes."""
    learn_adaptation: bool = False
    """Train the two strengths for every hidden neuron, a within (0, 1) and b within (0, 2)."""


class Weights(Part):
    """Initialization of the hidden weights.

    Attributes:
        from_data: Whether weights are measured on training data.
        dale: Whether it is for networks with Dale's law, for others, or for both (None).
    """

    from_data: ClassVar[bool] = False
    dale: ClassVar[bool | None] = False


class OnTarget(Weights):
    """Initializations with a target for the membrane."""

    traced = ("sigma_u", "mu_u", "alpha")
    dale = None

    sigma_u: Positive = 1.0
    """Target standard deviation of the membrane (threshold 1)."""
    mu_u: Annotated[float, Range(below=1)] = 0.0
    """Target mean of the membrane."""
    alpha: Fraction = 0.9
    """Feed-forward fraction of the membrane variance in recurrent layers."""


class DataDriven(OnTarget):
    """The target is measured on training data."""

    name, from_data = "data_driven", True


class DataDrivenBalanced(OnTarget):
    """As `data_driven`, with weights whose sum is zero for each neuron."""

    name, from_data, dale = "data_driven_balanced", True, False


class FluctuationDriven(OnTarget):
    """The formula of the paper; with Dale's law, with exponential weights."""

    name = "fluctuation_driven"


class Lognormal(OnTarget):
    """The formula of the paper for Dale's law, with log-normal weights."""

    name, dale = "lognormal", True


class LSUV(Weights):
    """Weights are scaled on training data until each layer fires at a rate."""

    name, from_data, traced = "lsuv", True, ("lsuv_rate",)

    lsuv_rate: Positive = 10.0
    """Target rate of every layer, Hz."""


class Normal(Weights):
    """A normal distribution."""

    name, traced = "normal", ("mu_w", "sigma_w")

    mu_w: Annotated[float, Range()] = 0.0
    """Mean of the hidden weights."""
    sigma_w: NonNegative = 1.0
    """Standard deviation of the hidden weights."""


class Kaiming(Weights):
    """Kaiming's normal weights, for comparison."""

    name = "kaiming"


class LeCun(Weights):
    """LeCun's normal weights, for comparison."""

    name = "lecun"


class Micheli(Weights):
    """Micheli's normal weights, for comparison."""

    name = "micheli"


class IKUN(Weights):
    """IKUN's normal weights, for comparison."""

    name = "ikun"


class Gradient(Part):
    """The gradient at the start of training is not calibrated."""

    name = "none"


class CalibratedGradient(Gradient):
    """The backward gain of every layer is calibrated on training data."""

    logit_spread: Positive = 0.3
    """The readout is scaled so that the logits of a sample have this standard deviation over
    classes."""


class Steepness(CalibratedGradient):
    """Calibrated by the steepness of each layer's surrogate."""

    name = "steepness"


class Scale(CalibratedGradient):
    """Calibrated by the scale of each layer's surrogate."""

    name = "scale"


WEIGHTS = (
    DataDriven,
    DataDrivenBalanced,
    FluctuationDriven,
    Lognormal,
    LSUV,
    Normal,
    Kaiming,
    LeCun,
    Micheli,
    IKUN,
)
GRADIENTS = (Steepness, Scale, Gradient)
NETWORKS = (Dense, CSNN, Dalian, DalianCSNN)
NEURONS = (LIF, Leaky, AdLIF)


class Start(Part):
    """Weights and gradient before training."""

    weights: Weights = dataclasses.field(
        default=DataDriven(), metadata={"flag": "init", "choices": WEIGHTS}
    )
    """Initialization of the hidden weights."""
    gradient: Gradient = dataclasses.field(
        default=Steepness(), metadata={"flag": "gradient", "choices": GRADIENTS}
    )
    """Calibration of the gradient."""
    nu: Positive | None = None
    """Input rate that the initialization assumes, Hz. None: the mean rate of the training data,
    before augmentation."""
    calibration_samples: Count = 200
    """Training samples for measurements before training; for images, also for that of `nu`."""

    @property
    def from_data(self) -> bool:
        """Whether weights or gradient are measured on training data."""
        return self.weights.from_data or isinstance(self.gradient, CalibratedGradient)


class Objective(Part):
    """The loss, and two bounds on the activity of every hidden layer."""

    traced = ("upper_strength", "upper_rate", "lower_strength", "lower_threshold")

    loss: LossName = "max_over_time"
    """Cross-entropy of the readout trace, reduced over time as named, or the mean square distance
    to 1 for the correct class and 0 for the others."""
    upper_strength: NonNegative = 0.1
    """Upper bound on the mean activity of a layer: strength (0: no bound)."""
    upper_rate: NonNegative = 10.0
    """Upper bound: rate, Hz."""
    upper_pool: UpperPool = "population"
    """Upper bound: applies to the mean activity of a layer, of each feature map, or of each
    neuron."""
    lower_strength: NonNegative = 0.0
    """Lower bound on the activity of each neuron: strength (0: no bound)."""
    lower_threshold: NonNegative = 1e-3
    """Lower bound: spikes per neuron and trial."""
    bound_share: NonNegative = 1.0
    """Both bounds: the largest gradient that a bound of a layer and of all layers above adds in it,
    as a multiple of the gradient of the loss. 0: no limit. There is no limit if `remat_steps`
    divides trials into parts."""


class Optimizer(Part):
    """Options that all optimizers share."""

    traced = ("learning_rate",)

    learning_rate: Positive
    """Learning rate; its largest value if it has a schedule."""


class Muon(Optimizer):
    """Steps relative to the weights."""

    name = "muon"

    learning_rate: Positive = 0.015


class SMORMS3(Optimizer):
    """The optimizer of the paper."""

    name = "smorms3"

    learning_rate: Positive = 0.005


class Adam(Optimizer):
    """Adam."""

    name = "adam"

    learning_rate: Positive = 0.001


class SGD(Optimizer):
    """Stochastic gradient descent."""

    name = "sgd"

    learning_rate: Positive = 0.1


OPTIMIZERS = (Muon, SMORMS3, Adam, SGD)


class Training(Part):
    """Epochs, batches, and what is stored for the gradient."""

    epochs: Count = 200
    """Passes over the training data."""
    priming_epochs: Natural = 0
    """Passes before training that use only the two bounds (homeostatic priming)."""
    batch_size: Count = 250
    """Samples per step, at most the size of the training set."""
    schedule: Schedule = "warmup_cosine"
    """Learning rate over the run. `constant`; `cosine`: decay to 0 along a cosine; `warmup_cosine`:
    a linear increase over the first 10 %, then the cosine."""
    remat_steps: Count | None = None
    """Number of time steps whose traces are stored at once for the gradient. Other traces are
    computed again, which saves memory and costs time. None: store all."""
    trace_dtype: TraceDtype | None = None
    """Dtype of the membranes that hidden layers store for the gradient. bfloat16 halves the memory.
    None: the dtype of the membranes."""
    events: bool | None = None
    """Pass input spikes to a dense first layer as lists of events instead of arrays. Results are
    equal up to rounding. None: if that is faster."""
