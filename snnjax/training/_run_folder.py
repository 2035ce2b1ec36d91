"""The folder of a run: config.json, metrics.csv, results.json, parameters and figures.

A run never overwrites the files of another run.
"""

from __future__ import annotations

import csv
import datetime
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from snnjax._files import write_whole
from snnjax._pytree import PyTree
from snnjax.training._params import encode_params


class RunFolder:
    """A new folder for one run.

    Args:
        path: The folder. It must be empty or not exist.

    Raises:
        FileExistsError: `path` is not empty.
        NotADirectoryError: `path` is a file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as tmp:
    ...     run = RunFolder(Path(tmp) / "run")
    ...     run.append({"epoch": 0, "train_loss": 2.5})
    ...     (run.path / "metrics.csv").read_text().split()
    ['epoch,train_loss', '0,2.5']
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self.check_new(self.path)
        self.path.mkdir(parents=True, exist_ok=True)

    @staticmethod
    def check_new(path: Path) -> None:
        """Check that the folder is empty or does not exist. Nothing is written."""
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(f"run folder {path} is a file")
        if path.exists() and any(path.iterdir()):
            raise FileExistsError(f"run folder {path} is not empty; name another one or remove it")

    @classmethod
    def existing(cls, path: Path) -> RunFolder:
        """Return the run folder at `path`, which may have files."""
        folder = cls.__new__(cls)
        folder.path = Path(path)
        return folder

    @classmethod
    def new(cls, name: str, *, under: Path = Path("runs")) -> RunFolder:
        """Create a new folder under `under`, named after `name` and the time."""
        stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
        for k in range(1000):
            path = under / (f"{name}-{stamp}" + (f"-{k}" if k else ""))
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            return cls(path)
        raise FileExistsError(f"no free name for {name}-{stamp} under {under}")

    def append(self, row: Mapping[str, float]) -> None:
        """Add one row to metrics.csv. The first row determines the columns."""
        file = self.path / "metrics.csv"
        fresh = not file.exists()
        names = list(row) if fresh else file.read_text().partition("\n")[0].split(",")
        with file.open("a", newline="") as f:
            writer = csv.DictWriter(f, fieldnames=names, lineterminator="\n")
            if fresh:
                writer.writeheader()
            writer.writerow(row)

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write `content` to NAME.json atomically."""
        text = json.dumps(content, indent=2, default=_plain) + "\n"
        write_whole(self.path / f"{name}.json", text.encode())

    def write_params(self, name: str, params: PyTree) -> None:
        """Write a pytree of arrays to NAME.npz, one entry per leaf, named by its path."""
        write_whole(self.path / f"{name}.npz", encode_params(params, ".npz"))


def _plain(value: object) -> str | list[Any] | float:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return np.asarray(value).tolist()
    raise TypeError(f"cannot write {type(value).__name__} as JSON")
