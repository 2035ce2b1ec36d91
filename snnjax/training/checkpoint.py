"""Checkpoints of an ensemble in training, written by orbax."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from snnjax.training.ensemble import Snapshot


class Checkpoints:
    """The last two snapshots of an ensemble in `folder`. A half-written one, of a process that was killed, is never read.

    >>> import tempfile
    >>> from snnjax.training.ensemble import MemberState
    >>> snapshot = Snapshot(3, {"w": np.arange(2.0)}, {"train_loss": np.zeros((2, 4))}, {"sigma_u_1": np.ones(2)})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Checkpoints(Path(folder)).save(snapshot)
    ...     back = Checkpoints(Path(folder)).restore(snapshot.state)
    >>> back.epoch, back.state["w"].tolist()
    (3, [0.0, 1.0])
    """

    def __init__(self, folder: Path) -> None:
        import orbax.checkpoint as ocp  # slow to import

        self._args = ocp.args
        # orbax wants an absolute path; saving waits until the snapshot is on disk, so that what comes after may rely on it
        options = ocp.CheckpointManagerOptions(max_to_keep=2, create=True, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def save(self, snapshot: Snapshot) -> None:
        """Write `snapshot`, and remove all but the last two."""
        leaves = {f"{k:04d}": np.asarray(leaf) for k, leaf in enumerate(jax.tree.leaves(snapshot.state))}
        # names and values of one dict: orbax writes no empty ones
        seen = {f"{group}.{name}": value for group in ("history", "initial") for name, value in getattr(snapshot, group).items()}
        self._manager.save(snapshot.epoch, args=self._args.StandardSave({"state": leaves, "seen": seen}))

    def restore(self, like: Any) -> Snapshot | None:
        """The last snapshot, its state in the structure of `like`; None where there is none.

        Raises:
          ValueError: it is of another ensemble.
        """
        epoch = self._manager.latest_step()
        if epoch is None:
            return None
        saved: Any = self._manager.restore(epoch, args=self._args.StandardRestore())
        leaves = [np.asarray(saved["state"][name]) for name in sorted(saved["state"])]
        shapes = [leaf.shape for leaf in jax.tree.leaves(like)]
        if [leaf.shape for leaf in leaves] != shapes:
            raise ValueError(
                f"the checkpoint of epoch {epoch} is of another ensemble: its arrays have shapes {[a.shape for a in leaves]}, not {shapes}"
            )
        groups: dict[str, dict[str, np.ndarray]] = {"history": {}, "initial": {}}
        for name, value in saved["seen"].items():
            group, _, name = name.partition(".")
            groups[group][name] = np.asarray(value)
        return Snapshot(epoch, jax.tree.unflatten(jax.tree.structure(like), leaves), **groups)
