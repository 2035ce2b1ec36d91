"""Arms that several figures have in common, so that `all` trains them once."""

from __future__ import annotations

from collections.abc import Sequence

from snnjax.reproduce.arms import Arm
from snnjax.reproduce.settings import SIGMAS, Options, conv, shallow

SMOKE_SIGMAS = (0.5, 1.0)


def sigmas(options: Options, laptop: Sequence[float]) -> tuple[float, ...]:
    """Targets of a curve."""
    return tuple(options.choose(smoke=SMOKE_SIGMAS, laptop=laptop, paper=SIGMAS))


SHALLOW_SIGMAS = (0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 20.0)
CONV_SIGMAS = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Of convolutional networks; those of fewer than seven layers begin at 0.01, since they train at 0.05."""


def shallow_curve(options: Options, name: str, *, recurrent: bool = False, **changes: object) -> Arm:
    """One hidden layer on spoken words over sigma_u. Laptop, both cores: 3 to 4 min, recurrent 6 (measured beside other work)."""
    task = shallow(options, recurrent=recurrent)
    if options.preset == "laptop":
        task = task.change(epochs=10)
    return Arm(name, task.change(**changes), {"sigma_u": sigmas(options, SHALLOW_SIGMAS)}, options.seeds_of(3))


def conv_curve(options: Options, depth: int, name: str, laptop: Sequence[float] | None = None, *, seeds: int = 2, **changes: object) -> Arm:
    """A convolutional network over sigma_u. Laptop, both cores: 1 layer 3 min, 3 layers 8, 7 layers 21; `laptop`, `seeds`: there, if not the usual."""
    if laptop is None:
        laptop = CONV_SIGMAS if depth >= 7 else (0.01, *CONV_SIGMAS)
    task = conv(options, depth).change(**changes)
    return Arm(name, task, {"sigma_u": sigmas(options, laptop)}, options.seeds_of(seeds))
