"""Restore experiment, data and network from a run folder."""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from snnjax import __version__, _check
from snnjax.experiments._experiment import Experiment

if TYPE_CHECKING:
    from snnjax.experiments._run import Prepared

Parameters = Literal["final", "best", "initial"]


def as_json(experiment: Experiment) -> dict[str, Any]:
    """Return the options of an experiment and the versions of the packages, for a JSON file."""
    import jax

    return experiment.options() | {"versions": {"snnjax": __version__, "jax": jax.__version__}}


def load_experiment(
    folder: Path, *, besides: Sequence[str] = (), replaced: Mapping[str, Any] | None = None
) -> Experiment:
    """Return the experiment of the run in `folder`.

    Args:
        folder: The run folder.
        besides: Entries of its config.json that are not options of the experiment.
        replaced: Options with other values than in the file, or that the file does not have.

    Raises:
        FileNotFoundError: The folder has no config.json.
        ValueError: The file is damaged, or this version does not know one of its options.
    """
    file = Path(folder) / "config.json"
    if not file.exists():
        raise FileNotFoundError(f"{folder} is not the folder of a run: it has no config.json")
    if not besides and (file.parent / "plan.json").exists():
        raise ValueError(f"{folder} is the folder of a sweep, not of a run")
    content = read_json(file)
    if not isinstance(content, dict) or not isinstance(content.get("task"), str):
        raise ValueError(f"{file} must have the options of an experiment, with a task")
    try:
        own = {n: v for n, v in content.items() if n not in ("versions", *besides)}
        return Experiment.from_options(**own | dict(replaced or {}))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from None


def differences(saved: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """Name the options that differ, with both values. The folder of the data may change.

    >>> differences({"epochs": 10, "data": "here"}, {"epochs": 20, "data": "there"})
    'epochs (10, got 20)'
    """
    names = [name for name in own if name != "data" and saved.get(name) != own[name]]
    return ", ".join(f"{name} ({saved.get(name)!r}, got {own[name]!r})" for name in names)


def read_json(file: Path) -> Any:
    """Return the content of a JSON file, or raise a ValueError that names it."""
    try:
        return json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not a JSON file: {error}") from None


def load_run(folder: Path, *, parameters: Parameters = "final") -> Prepared:
    """Return data and network of the run in `folder`.

    Args:
        folder: The run folder.
        parameters: Parameters of the network: `"final"`, `"best"` on the validation set, or
            `"initial"`, before training.

    Raises:
        FileNotFoundError: A file of the run is missing. The message names it.
        ValueError: A file of the run is damaged. The message names it.
    """
    from flax import nnx

    from snnjax.experiments._build import build_network
    from snnjax.experiments._data import load
    from snnjax.experiments._run import Prepared, prepare
    from snnjax.training._params import load_params

    _check.one_of("parameters", parameters, typing.get_args(Parameters))
    experiment = load_experiment(folder)
    if parameters == "initial":
        return prepare(experiment)
    data = load(experiment)
    # nothing is measured: the file has all that a calibration sets
    network = build_network(experiment, data.inputs)
    like = nnx.state(network, nnx.Param)
    nnx.update(network, load_params(like, Path(folder) / f"{parameters}.npz"))
    return Prepared(experiment, network, data)
