"""Checkpoints of training, of one network or of an ensemble, written by orbax."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from snnjax import _check
from snnjax._pytree import PyTree
from snnjax.training._callbacks import Callback, FitState, Plan, Row
from snnjax.training._ensemble import Snapshot
from snnjax.training._params import HOLD

Content = dict[str, np.ndarray]
"""Arrays of a checkpoint by "group.name"; the groups are "state", "history" and "initial"."""


class Checkpoints(Callback):
    """A folder with the last two checkpoints of a run.

    For one network it is a callback of `fit`, and `fit` resumes from the same folder. For
    ensembles, `fit_ensemble` takes the methods `save` and `restore`.

    A checkpoint that was only partly written, because the process was killed, is never read. A
    damaged checkpoint is detected by a digest of its numbers; then the one before is read. The
    resumed training gives the same numbers as training without interruption.

    Args:
        folder: Path of the checkpoints. The folder is created if it does not exist.
        every: Number of epochs between two checkpoints of `fit`. The last epoch always has one.

    Raises:
        ValueError: `every` is below 1.

    >>> import tempfile
    >>> state, history = {"w": np.arange(2.0)}, {"train_loss": np.zeros((2, 4))}
    >>> snapshot = Snapshot(3, state, history, {"sigma_u_1": np.ones(2)})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Checkpoints(folder).save(snapshot)
    ...     back = Checkpoints(folder).restore(snapshot.state)
    >>> back.epoch, back.state["w"].tolist()
    (3, [0.0, 1.0])
    """

    def __init__(self, folder: str | os.PathLike[str], *, every: int = 1) -> None:
        self.every, self._last = _check.integer("every", every, at_least=1), 0
        import orbax.checkpoint as ocp  # slow to import

        self._args = ocp.args
        # orbax requires an absolute path; `save` returns only when the snapshot is on disk
        last_two = ocp.checkpoint_managers.LatestN(2)
        folder, process = Path(folder).absolute(), jax.process_index()
        folder.mkdir(parents=True, exist_ok=True)
        # each process of a cluster has folders of its own, and waits for no other
        own = ocp.options.MultiprocessingOptions(
            primary_host=process, active_processes={process}, barrier_sync_key_prefix=str(process)
        )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=last_two,
            create=False,
            enable_async_checkpointing=False,
            multiprocessing_options=own,
        )
        self._manager = ocp.CheckpointManager(folder, options=options)

    def start(self, plan: Plan) -> None:
        self._last = plan.last
        if not plan.history:
            self._manager.reload()  # `resume` may have removed damaged checkpoints
            if steps := self._manager.all_steps():
                raise ValueError(
                    "folder must have no checkpoints of another run, got "
                    f"{self._manager.directory} with one of epoch {max(steps)}; continue that run "
                    "with fit(..., resume=folder), or choose another folder"
                )

    def epoch_end(self, row: Row, state: FitState) -> None:
        epoch = int(row["epoch"])
        if epoch % self.every == 0 or epoch == self._last:
            history = {name: np.array([r[name] for r in state.history]) for name in row}
            self.save(Snapshot(epoch, _state_of(state), history, dict(state.seed)))

    def restore_fit(self, like: FitState) -> FitState | None:
        """The last complete checkpoint of `fit`.

        Args:
            like: The state of the same run before training.

        Returns:
            The state, or None if there is no checkpoint.

        Raises:
            ValueError: The checkpoint belongs to another run: parameters of other shapes, or
                another key, batch size, number of priming epochs or number of samples.
        """
        saved = self.restore(_state_of(like))
        if saved is None:
            return None
        for name, value in like.seed.items():
            if not np.array_equal(value, saved.initial[name]):
                found = f"{saved.initial[name].tolist()}, got {value.tolist()}"
                raise ValueError(f"{name} must be that of the checkpoint, {found}")
        names, columns = list(saved.history), list(saved.history.values())
        each = zip(*columns, strict=True)
        rows = [dict(zip(names, map(float, values), strict=True)) for values in each]
        history = [row | {"epoch": int(row["epoch"])} for row in rows]
        train, best, best_epoch, best_quality = saved.state
        return FitState(train, best, int(best_epoch), float(best_quality), history, like.seed)

    def save(self, snapshot: Snapshot) -> None:
        """Write `snapshot`, and remove all checkpoints except the last two."""
        state = {str(k): leaf for k, leaf in enumerate(jax.tree.leaves(snapshot.state))}
        groups = {"state": state, "history": snapshot.history, "initial": snapshot.initial}
        # one flat dict, because orbax does not write empty ones; numbered, because it sorts names
        content = {
            f"{group}.{k:04d}.{name}": np.asarray(a)
            for group, arrays in groups.items()
            for k, (name, a) in enumerate(arrays.items())
        }
        saved = self._args.StandardSave(content | {"digest": _digest(content)})
        if not self._manager.save(snapshot.epoch, args=saved):
            raise ValueError(
                f"folder must have no checkpoint of epoch {snapshot.epoch} or later, got "
                f"{self._manager.directory} with one of epoch {self._manager.latest_step()}; "
                "continue from it, or choose another folder"
            )

    def restore(self, like: PyTree) -> Snapshot | None:
        """The last complete snapshot. Damaged ones are removed.

        Args:
            like: A pytree with the structure and the shapes of the state.

        Returns:
            The snapshot, with a state of the structure of `like`; None if there is none.

        Raises:
            ValueError: The snapshot belongs to another network or ensemble.
        """
        for epoch in sorted(self._manager.all_steps(), reverse=True):
            if (saved := self._read(epoch)) is not None:
                return _snapshot(epoch, saved, like)
            self._manager.delete(epoch)
        return None

    def _read(self, epoch: int) -> Content | None:
        """The content of a checkpoint, or None if it is damaged."""
        try:
            saved: Any = self._manager.restore(epoch, args=self._args.StandardRestore())
            digest = saved.pop("digest")
            content = {name: np.asarray(a) for name, a in saved.items()}
            return content if np.array_equal(_digest(content), digest) else None
        except Exception:  # damaged files raise many types in orbax, tensorstore and protobuf
            return None


def _snapshot(epoch: int, saved: Content, like: PyTree) -> Snapshot:
    groups: dict[str, Content] = {"state": {}, "history": {}, "initial": {}}
    for key, a in sorted(saved.items()):
        group, _, name = key.split(".", 2)
        groups[group][name] = a
    leaves = list(groups.pop("state").values())
    shapes = [leaf.shape for leaf in jax.tree.leaves(like)]
    if [leaf.shape for leaf in leaves] != shapes:
        hint = f"; if the gradient of its network was calibrated, {HOLD}"
        raise ValueError(
            f"the checkpoint of epoch {epoch} is of another network or ensemble: its arrays "
            f"have shapes {[a.shape for a in leaves]}, not {shapes}"
            f"{hint if len(leaves) > len(shapes) else ''}"
        )
    return Snapshot(epoch, jax.tree.unflatten(jax.tree.structure(like), leaves), **groups)


def _state_of(state: FitState) -> tuple[Any, ...]:
    """The part of a state that is saved as arrays."""
    scalars = np.asarray(state.best_epoch), np.asarray(state.best_quality, np.float64)
    return jax.device_get(state.train), state.best, *scalars


def _digest(content: Content) -> np.ndarray:
    """SHA-256 of all names, types, shapes and numbers, (32,) bytes."""
    digest = hashlib.sha256()
    for name, a in sorted(content.items()):
        digest.update(f"{name} {a.dtype} {a.shape}\n".encode())
        digest.update(np.ascontiguousarray(a).tobytes())
    return np.frombuffer(digest.digest(), np.uint8)
