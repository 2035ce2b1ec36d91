"""Restore data and network from the folder of a run, or of a member of a sweep."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from snnjax import _check

if TYPE_CHECKING:
    from snnjax.datasets import Splits
    from snnjax.experiments._run import Prepared

Parameters = Literal["final", "best", "initial"]


def load_run(
    folder: Path, *, parameters: Parameters = "final", datasets: Splits | None = None
) -> Prepared:
    """Return data and network of the run in `folder`.

    Args:
        folder: The run folder, or the folder of a member of a sweep, SWEEP/members/MEMBER.
        parameters: Parameters of the network: `"final"`, `"best"` on the validation set, or
            `"initial"`, before training.
        datasets: Training, validation and test set. None: those of the task.

    Raises:
        FileNotFoundError: A file of the run is missing. The message names it.
        ValueError: A file of the run is damaged, or the folder has several networks. The message
            names the file, or a folder with one network.
    """
    from flax import nnx

    from snnjax.experiments._build import build_network
    from snnjax.experiments._data import load
    from snnjax.experiments._run import Prepared, prepare
    from snnjax.experiments._sweep import load_sweep
    from snnjax.experiments._sweep_folder import member_folder, planned
    from snnjax.training._params import load_params

    _check.one_of("parameters", parameters, typing.get_args(Parameters))
    folder = Path(folder)
    member = folder.parent.name == "members" and not (folder / "config.json").exists()
    root = folder.parent.parent if member else folder
    sweep, members = load_sweep(root), planned(root)
    found = [member for member in members if member_folder(root, member) == folder]
    if not found:
        one = member_folder(root, members[0])
        raise ValueError(f"{folder} is not the folder of one network; name one, for example {one}")
    experiment = sweep.experiment(found[0])
    if parameters == "initial":
        return prepare(experiment, datasets)
    data = load(experiment, datasets)
    # nothing is measured: the file has all that a calibration sets
    network = build_network(experiment, data.inputs)
    like = nnx.state(network, nnx.Param)
    nnx.update(network, load_params(like, folder / f"{parameters}.npz"))
    return Prepared(experiment, network, data)
