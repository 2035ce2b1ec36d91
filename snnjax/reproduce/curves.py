"""Arms that several figures share, so that `all` trains them once."""

from __future__ import annotations

from collections.abc import Sequence

from snnjax.reproduce.arms import Arm
from snnjax.reproduce.settings import SIGMAS, Options, conv, shallow

SMOKE_SIGMAS = (0.5, 1.0)


def sigmas(options: Options, laptop: Sequence[float]) -> tuple[float, ...]:
    """Return the targets sigma_u of a curve."""
    return tuple(options.choose(smoke=SMOKE_SIGMAS, laptop=laptop, paper=SIGMAS))


SHALLOW_SIGMAS = (0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 20.0)
CONV_SIGMAS = (0.05, 0.2, 0.5, 1.0, 2.0, 5.0)
"""Targets of convolutional networks. Networks with fewer than seven layers begin at 0.01, because
they train at 0.05."""


def shallow_curve(
    options: Options, name: str, *, recurrent: bool = False, **changes: object
) -> Arm:
    """Return the arm of one hidden layer on spoken words over sigma_u.

    Laptop, both cores: 3 to 4 min, or 6 min with recurrence (measured while other programs ran).

    Args:
        options: The options of the study.
        name: Name of the arm.
        recurrent: Add recurrent connections.
        **changes: Other settings of the configuration.
    """
    task = shallow(options, recurrent=recurrent)
    if options.preset == "laptop":
        task = task.change(epochs=10)
    return Arm(
        name,
        task.change(**changes),
        {"sigma_u": sigmas(options, SHALLOW_SIGMAS)},
        options.seeds_of(3),
    )


def conv_curve(
    options: Options,
    depth: int,
    name: str,
    laptop: Sequence[float] | None = None,
    *,
    seeds: int = 2,
    **changes: object,
) -> Arm:
    """Return the arm of a convolutional network over sigma_u.

    Laptop, both cores: 1 layer 3 min, 3 layers 8 min, 7 layers 21 min.

    Args:
        options: The options of the study.
        depth: Number of hidden layers.
        name: Name of the arm.
        laptop: Values of sigma_u in the laptop preset. None: `CONV_SIGMAS`.
        seeds: Number of seeds in the laptop preset.
        **changes: Other settings of the configuration.
    """
    if laptop is None:
        laptop = CONV_SIGMAS if depth >= 7 else (0.01, *CONV_SIGMAS)
    task = conv(options, depth).change(**changes)
    return Arm(name, task, {"sigma_u": sigmas(options, laptop)}, options.seeds_of(seeds))
