"""Restore configuration, data and network from a run folder."""

from __future__ import annotations

import dataclasses
import json
import typing
from pathlib import Path
from typing import Any, Literal

from flax import nnx

from snnjax import _check
from snnjax.experiments._run import Prepared, prepare
from snnjax.experiments.config import TrainConfig
from snnjax.experiments.tasks import TASKS
from snnjax.training._params import load_params

Parameters = Literal["final", "best", "initial"]
_CONFIGS: dict[str, type[TrainConfig]] = {c.__name__: c for c in TASKS.values()}


def load_config(folder: Path) -> Any:
    """Return the configuration of the run in `folder`.

    Args:
        folder: The run folder.

    Returns:
        The configuration, such as a `RandmanConfig`.

    Raises:
        FileNotFoundError: The folder has no config.json.
        ValueError: The file is damaged, or this version does not know the configuration.
    """
    file = Path(folder) / "config.json"
    try:
        content = json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not a JSON file: {error}") from None
    if not isinstance(content, dict) or content.get("config") not in _CONFIGS:
        raise ValueError(f"{file} must name one of the configurations {sorted(_CONFIGS)}")
    cls = _CONFIGS[content["config"]]
    known = {f.name for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    values = {}
    for name, value in content.items():
        if name in known:
            value = tuple(value) if isinstance(value, list) else value
            values[name] = (
                Path(value)
                if isinstance(value, str) and Path in (hints[name], *typing.get_args(hints[name]))
                else value
            )
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from None


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
    _check.one_of("parameters", parameters, typing.get_args(Parameters))
    prepared = prepare(load_config(folder))
    if parameters != "initial":
        like = nnx.state(prepared.network, nnx.Param)
        nnx.update(prepared.network, load_params(like, Path(folder) / f"{parameters}.npz"))
    return prepared
