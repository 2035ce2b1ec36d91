"""Arms that several figures have in common, so that `all` trains them once."""

from __future__ import annotations

from collections.abc import Sequence

from snnjax.reproduce.arms import Arm
from snnjax.reproduce.settings import SIGMAS, Options, Task, conv, shallow

SMOKE_SIGMAS = (0.5, 1.0)


def sigmas(options: Options, laptop: Sequence[float]) -> tuple[float, ...]:
    """Targets of a curve."""
    return tuple(options.choose(smoke=SMOKE_SIGMAS, laptop=laptop, paper=SIGMAS))


SHALLOW_SIGMAS = (0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 20.0)
CONV_SIGMAS = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0)


def shallow_curve(options: Options, name: str, *, recurrent: bool = False, **changes: object) -> Arm:
    """One hidden layer on spoken words over sigma_u. Laptop: 210 member-epochs of 3 s of one core (recurrent 3.8; measured beside other work), 5 to 7 min."""
    task = shallow(options, recurrent=recurrent)
    if options.preset == "laptop":
        task = task.change(epochs=10)
    return Arm(name, task.change(**changes), {"sigma_u": sigmas(options, SHALLOW_SIGMAS)}, options.seeds_of(3))


def conv_task(options: Options, depth: int) -> Task:
    """The convolutional network, trained for as many epochs on a laptop as its depth needs at least: 12, or 18 from seven layers on."""
    return conv(options, depth, laptop_epochs=18 if depth >= 7 else 12)


def conv_curve(options: Options, depth: int, name: str, laptop: Sequence[float] = CONV_SIGMAS, **changes: object) -> Arm:
    """A convolutional network over sigma_u. Laptop, both cores: 1 layer 3 min, 3 layers 5 min, 7 layers 20 min."""
    task = conv_task(options, depth).change(**changes)
    return Arm(name, task, {"sigma_u": sigmas(options, laptop)}, options.seeds_of(2))
