"""Activity of a trained network of an arm, on test samples."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from flax import nnx

from snnjax.experiments._run import activity_figure, load
from snnjax.experiments.build import build_network
from snnjax.experiments.sweep_folder import member_file
from snnjax.reproduce.arms import Arm
from snnjax.reproduce.data import SOURCES
from snnjax.training._params import unflatten_params

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def snapshot(arm: Arm, member: Mapping[str, Any], root: Path, *, samples: int = 2) -> Figure:
    """Plot spikes and readout of a member of an arm, with its final parameters.

    Args:
        arm: The arm.
        member: Hyper-parameters of the member.
        root: Folder of the studies.
        samples: Number of test samples.

    Raises:
        FileNotFoundError: The member has not been trained.
    """
    config, data = load(arm.task.config, SOURCES[arm.task.source](arm.task.config))
    network = build_network(dataclasses.replace(config, **member), nu=config.nu, **data.needs)
    with np.load(member_file(arm.folder(root), member), allow_pickle=False) as archive:
        arrays = {
            name.removeprefix("final."): archive[name]
            for name in archive.files
            if name.startswith("final.")
        }
    nnx.update(network, unflatten_params(nnx.state(network, nnx.Param), arrays))
    return activity_figure(config, network, data.splits.test, samples=samples)
