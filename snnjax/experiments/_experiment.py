"""One training run, as a value: task, network, neuron, start, objective, optimizer, training, seed.

    Experiment.from_options("shd", data=folder, recurrent=True, sigma_u=0.5)

is the same as `snnjax train shd --data FOLDER --recurrent --sigma-u 0.5`. An experiment says
nothing about where results are written and on which devices it runs.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, get_args

from snnjax import _check
from snnjax.experiments import _parts as parts
from snnjax.experiments._options import Part, options_of, replaced
from snnjax.experiments._tasks import TASKS, EventTask, Task

if TYPE_CHECKING:
    from snnjax.datasets import Splits

StartName = Literal["calibrated", "paper"]
STARTS: dict[str, dict[str, Any]] = {
    "calibrated": {},
    "paper": {
        "gradient": "none",
        "init": "fluctuation_driven",
        "optimizer": "smorms3",
        "schedule": "constant",
        "lower_strength": 100.0,
        "bound_share": 0.0,
    },
}
"""Options of each start. `calibrated` has the defaults of the parts."""


class Experiment(Part):
    """Everything that determines the numbers of a training run.

    Attributes:
        task: What is to be learned.
        network: The network.
        neuron: Its neurons.
        start: Its weights and gradient before training.
        objective: The loss and the bounds on activity.
        optimizer: The optimizer.
        training: Epochs and batches.
        seed: Seed of the weights and of the order of samples.

    Raises:
        ValueError: The parts do not fit together. The message names the option.

    >>> experiment = Experiment.from_options("randman", hidden=(64, 64), sigma_u=0.5)
    >>> experiment.network.num_layers, experiment.start.weights.sigma_u
    (2, 0.5)
    >>> experiment.replace(init="lsuv").start.weights
    LSUV(lsuv_rate=10.0)
    """

    task: Task = dataclasses.field(metadata={"flag": "task", "choices": TASKS})
    network: parts.Network = dataclasses.field(
        default=parts.Dense(), metadata={"flag": "model", "choices": parts.NETWORKS}
    )
    """The network. `csnnN` stands for `csnn` with N layers."""
    neuron: parts.Neuron = dataclasses.field(
        default=parts.LIF(), metadata={"flag": "neuron", "choices": parts.NEURONS}
    )
    """The hidden neurons."""
    start: parts.Start = dataclasses.field(default_factory=parts.Start)
    objective: parts.Objective = dataclasses.field(default_factory=parts.Objective)
    optimizer: parts.Optimizer = dataclasses.field(
        default=parts.Muon(), metadata={"flag": "optimizer", "choices": parts.OPTIMIZERS}
    )
    """The optimizer."""
    training: parts.Training = dataclasses.field(default_factory=parts.Training)
    seed: int = 0
    """Seed of the weights and of the order of samples."""

    @classmethod
    def from_options(
        cls, task: str, *, start: StartName = "calibrated", **options: object
    ) -> Experiment:
        """Return an experiment with the defaults of its task and start.

        Args:
            task: Name of the task: randman, shd, ssc, digits, cifar10, dvs-gesture or nmnist.
            start: `"calibrated"`: membranes and gradients are calibrated on training data.
                `"paper"`: the published settings of Rossbroich, Gygax & Zenke (2022).
            **options: Options of any part, by name.

        Raises:
            ValueError: A name or value is not allowed, or an option has no effect.
        """
        kinds = {kind.name: kind for kind in TASKS}
        _check.one_of("task", task, tuple(kinds))
        _check.one_of("start", start, get_args(StartName))
        # a task and its defaults at once, because the task alone may not fit the other parts
        defaults = {"task": task, **STARTS[start], **kinds[task].defaults}
        return replaced(cls(task=TASKS[0]()), defaults).replace(**options)

    def replace(self, **options: object) -> Experiment:
        """Return the experiment with other values of some options.

        Args:
            **options: Options of any part, by name.

        Raises:
            ValueError: As for `from_options`.
        """
        changed = replaced(self, _spelled_out(options))
        for name, reason in changed.idle().items():
            if name in options:
                raise ValueError(f"{name} has no effect, because {reason}; leave it out")
        return changed

    def options(self) -> dict[str, Any]:
        """Return all options that have an effect, by name: `from_options(**options)` undoes it."""
        idle = self.idle()
        return {o.name: o.value for o in options_of(self) if o.name not in idle}

    def idle(self) -> dict[str, str]:
        """Return the names of all options without an effect, and the reason."""
        bounds, calibrated = self.objective, isinstance(self.start.gradient, parts.Steepness)
        off = lambda strength: _check.concrete(strength) is not None and float(strength) == 0
        reasons = self.task.idle()
        if off(bounds.upper_strength):
            reasons |= dict.fromkeys(("upper_rate", "upper_pool"), "upper_strength is 0")
        if off(bounds.lower_strength):
            reasons["lower_threshold"] = "lower_strength is 0"
        if off(bounds.upper_strength) and off(bounds.lower_strength):
            reasons["bound_share"] = "both bounds have strength 0"
        if isinstance(self.network, parts.Dense) and self.network.max_delay is None:
            reasons |= dict.fromkeys(("delays", "delay_width"), "max_delay is None")
        if not self.network.recurrent:
            reasons["alpha"] = "the network is not recurrent"
        if calibrated and self.network.num_layers > 1:
            reasons["beta"] = "gradient 'steepness' calibrates it"
        if isinstance(self.neuron, parts.AdLIF):
            reasons["trace_dtype"] = "neuron 'adlif' stores no such trace"
        if not self.start.from_data and isinstance(self.task, EventTask):
            reasons["calibration_samples"] = "nothing is measured before training"
        return reasons

    def datasets(self) -> Splits:
        """Load the training, validation and test set.

        Raises:
            FileNotFoundError: The data are missing. The message says where they were expected.
        """
        return self.task.datasets(self)

    def __post_init__(self) -> None:
        super().__post_init__()
        _check.integer("seed", self.seed, at_least=0, at_most=2**31 - 1)
        duration, dt = self.task.duration, self.neuron.dt
        if duration < 2 * dt:
            raise ValueError(f"dt must be at most half of duration {duration:g} s, got {dt:g} s")
        network, weights = self.network, self.start.weights
        if isinstance(network, parts.CSNN):
            _check.one_of(
                "depth", network.depth, (2, 4, 6, 8) if self.task.plane else (1, 3, 7, 10)
            )
        delay = network.max_delay if isinstance(network, parts.Dense) else None
        if delay is not None and delay > duration:
            longest = f"the duration of a trial, {duration:g} s"
            raise ValueError(f"max_delay must be at most {longest}, got {delay:g} s")
        if network.dalian and self.task.plane:
            raise ValueError(
                f"model must be 'dense' or 'csnn' for inputs on a plane, got {network.name!r}"
            )
        if isinstance(self.task, EventTask) and self.task.trial_end != "fixed" and network.norm:
            needed = "norm must be False for trials of different length"
            raise ValueError(
                f"{needed} (trial_end {self.task.trial_end!r}), got True: its statistics are of "
                "all steps"
            )
        if network.dalian:
            _check.one_of(f"neuron of model {network.name!r}", self.neuron.name, ["lif"])
        if weights.dale not in (None, network.dalian):
            fitting = [w.name for w in parts.WEIGHTS if w.dale in (None, network.dalian)]
            _check.one_of(f"init of model {network.name!r}", weights.name, fitting)
        strength = _check.concrete(self.objective.lower_strength)
        if self.training.priming_epochs and strength is not None and strength == 0:
            raise ValueError(
                "lower_strength must be > 0 for priming_epochs, which use only the bounds, got 0"
            )
        shard = self.task.streamed and getattr(self.task, "shard_size", 0)
        if shard and shard % self.training.batch_size:
            needed = f"a multiple of batch_size {self.training.batch_size}"
            raise ValueError(f"shard_size must be {needed}, got {shard}")


def _spelled_out(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options in which `csnnN` is `csnn` with a depth of N."""
    found = re.fullmatch(r"((?:dalian_)?csnn)(\d+)", str(options.get("model", "")))
    named = {} if found is None else {"model": found[1], "depth": int(found[2])}
    return dict(options) | named
