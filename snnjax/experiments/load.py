"""A run folder back into what it came from: configuration, data and network."""

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
from snnjax.training.params import load_params

Parameters = Literal["final", "best", "initial"]
_CONFIGS: dict[str, type[TrainConfig]] = {c.__name__: c for c in TASKS.values()}


def load_config(folder: Path) -> Any:
    """The configuration of the run in `folder`.

    Raises:
      FileNotFoundError: no config.json there.   ValueError: it is damaged, or not one that this version knows.
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
            values[name] = Path(value) if isinstance(value, str) and Path in (hints[name], *typing.get_args(hints[name])) else value
    try:
        return cls(**values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{file}: {error}") from None


def load_run(folder: Path, *, parameters: Parameters = "final") -> Prepared:
    """Data and network of the run in `folder`, with its final or best parameters, or as it was before training.

    Raises:
      FileNotFoundError, ValueError: a file of the run is missing or damaged; names it.
    """
    _check.one_of("parameters", parameters, typing.get_args(Parameters))
    prepared = prepare(load_config(folder))
    if parameters != "initial":
        like = nnx.state(prepared.network, nnx.Param)
        nnx.update(prepared.network, load_params(like, Path(folder) / f"{parameters}.npz"))
    return prepared
