"""Checkpoints of an ensemble in training, written by orbax."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from snnjax.training.ensemble import Snapshot


class Checkpoints:
    """The last two snapshots of an ensemble in `folder`. A half-written one, of a process that was killed, is never read, and one that is damaged, which a
    digest of its numbers tells, is passed over for the one before: training from there ends at the same numbers.

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
        last_two = ocp.checkpoint_managers.LatestN(2)
        options = ocp.CheckpointManagerOptions(preservation_policy=last_two, create=True, enable_async_checkpointing=False)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)

    def save(self, snapshot: Snapshot) -> None:
        """Write `snapshot`, and remove all but the last two."""
        leaves = {f"{k:04d}": np.asarray(leaf) for k, leaf in enumerate(jax.tree.leaves(snapshot.state))}
        # names and values of one dict: orbax writes no empty ones
        seen = {f"{group}.{name}": value for group in ("history", "initial") for name, value in getattr(snapshot, group).items()}
        content = {"state": leaves, "seen": seen}
        self._manager.save(snapshot.epoch, args=self._args.StandardSave(content | {"digest": _digest(content)}))

    def restore(self, like: Any) -> Snapshot | None:
        """The last snapshot that is whole, its state in the structure of `like`; None where there is none. Damaged ones are removed.

        Raises:
          ValueError: it is of another ensemble.
        """
        for epoch in sorted(self._manager.all_steps(), reverse=True):
            if (saved := self._read(epoch)) is not None:
                return self._snapshot(epoch, saved, like)
            self._manager.delete(epoch)
        return None

    def _read(self, epoch: int) -> Any:
        """What was saved, or None where it is damaged."""
        try:
            saved: Any = self._manager.restore(epoch, args=self._args.StandardRestore())
            content = {group: {name: np.asarray(a) for name, a in saved[group].items()} for group in ("state", "seen")}
            return content if np.array_equal(_digest(content), saved["digest"]) else None
        except Exception:  # whatever a damaged file provokes in orbax, tensorstore and protobuf
            return None

    def _snapshot(self, epoch: int, saved: Any, like: Any) -> Snapshot:
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


def _digest(content: dict[str, dict[str, np.ndarray]]) -> np.ndarray:
    """SHA-256 of all names, types, shapes and numbers, (32,) bytes."""
    digest = hashlib.sha256()
    for group, arrays in sorted(content.items()):
        for name, a in sorted(arrays.items()):
            digest.update(f"{group}.{name} {a.dtype} {a.shape}\n".encode())
            digest.update(np.ascontiguousarray(a).tobytes())
    return np.frombuffer(digest.digest(), np.uint8)
