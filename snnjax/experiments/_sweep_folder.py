r"""The files of a sweep, and the order of writing that makes a sweep safe to interrupt.

    FOLDER/config.json      options of the base experiment and of the sweep, without the seed; the
                            swept options apart, as `base`
    FOLDER/plan.json        every member that was ever requested
    FOLDER/members/ID.npz   a finished member: history, results and parameters. ID lists its seed
                            and its values, "seed=0,sigma_u=0.5"
    FOLDER/waves/K/         an unfinished wave, members that train together: wave.json, and a
                            checkpoint after every few epochs, written by orbax
    FOLDER/results.csv      one row per member: its values, accuracies, rates, and the probe before
                            training
    FOLDER/sweep.png        for one swept number curves, mean and range over seeds; for two, heat
                            maps, mean over seeds

Each file is written completely or not at all. The order of writing ensures that the same numbers
follow from every intermediate state: after an interruption at any point, the sweep continues and
ends with bit-identical results (`snnjax.experiments.run_sweep`).
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from snnjax._files import write_whole
from snnjax.experiments._load import read_json
from snnjax.experiments._results import swept
from snnjax.experiments._rows import Member, Row, is_number, numbers_of, row_from, shown
from snnjax.training._ensemble import EnsembleResult
from snnjax.training._params import flatten_params

FIGURE = "sweep.png"


def member_file(folder: Path, member: Mapping[str, Any]) -> Path:
    """Return the file of a finished member of the sweep in `folder`."""
    name = ",".join(f"{name}={shown(value)}" for name, value in sorted(member.items()))
    return folder / "members" / f"{name.replace('/', '_')}.npz"


def finished(folder: Path, members: Sequence[Member]) -> list[Member]:
    """Return the members that have been trained."""
    return [member for member in members if member_file(folder, member).exists()]


_OWN = (".lock", "members", "plan.json", ".plan.json.tmp", ".config.json.tmp")
"""Files left by a sweep that was killed before it had trained anything. The folder can be
reused."""


def has_sweep(folder: Path, *, resume: bool) -> bool:
    """Return whether a folder has a sweep to continue, or is new. Nothing is written.

    Args:
        folder: The folder.
        resume: Whether a sweep in the folder is to be continued.

    Raises:
        FileExistsError: The folder is not empty and has no sweep, or it has one and `resume` is
            False.
    """
    if not (folder / "config.json").exists():
        if folder.exists() and (
            not folder.is_dir() or any(p.name not in _OWN for p in folder.iterdir())
        ):
            raise FileExistsError(
                f"sweep folder {folder} is not an empty folder and has no sweep; name another one"
            )
        return False
    if not resume:
        raise FileExistsError(
            f"sweep folder {folder} has a sweep; continue it with resume (--resume), or name "
            "another folder"
        )
    return True


def open_folder(folder: Path, config: dict[str, Any], members: Sequence[Member]) -> list[Member]:
    """Write new parts of the plan and of the configuration. Return all members of the plan.

    Args:
        folder: The folder of the sweep.
        config: Content of config.json.
        members: The requested members.

    Raises:
        ValueError: A file is damaged.
    """
    (folder / "members").mkdir(exist_ok=True)
    new = not (folder / "config.json").exists()
    union = list(members) if new else members_of(folder, members)
    if new or union != planned(folder):
        write_whole(folder / "plan.json", json.dumps(union).encode())
    if new:  # last: a folder with this file has a sweep
        write_whole(folder / "config.json", (json.dumps(config, indent=2) + "\n").encode())
    return union


def members_of(folder: Path, more: Sequence[Member]) -> list[Member]:
    """Return all members of the plan, and those of `more` that it does not have."""
    plan = planned(folder)
    return plan + [m for m in more if m not in plan]


def planned(folder: Path) -> list[Member]:
    """Return all members of the plan, or an empty list if there is none."""
    file = folder / "plan.json"
    return [_member(m) for m in read_json(file)] if file.exists() else []


def _member(saved: Mapping[str, Any]) -> Member:
    """Return a member as it was before JSON turned its tuples into lists."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in saved.items()}


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Lock the folder for one process. The system releases the lock of a killed process."""
    with (folder / ".lock").open("w") as file:
        try:
            import fcntl
        except ImportError:  # not on Windows
            yield
            return
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"another process trains in the sweep folder {folder}; wait for it, or name "
                "another folder"
            ) from None
        yield


def plan_waves(folder: Path, groups: Sequence[Sequence[Member]], size: int) -> None:
    """Write the waves of all members that are neither finished nor in an unfinished wave.

    The waves depend only on the plan and `size`, so that one process and many have the same.

    Args:
        folder: The folder of the sweep.
        groups: All members of the plan; the members of one group can train together.
        size: Largest number of members in a wave.
    """
    for left in (folder / "waves").glob("*.done"):  # the process was killed while removing it
        shutil.rmtree(left)
    for left in (folder / "waves").glob(f"*/{_CLAIMED}"):  # a process was killed while training it
        left.rmdir()
    unfinished = [m for _, wave in waves_in(folder) for m in wave]
    number = max((int(f.name) for f, _ in waves_in(folder)), default=-1) + 1
    for group in groups:
        done = finished(folder, group)
        waiting = [m for m in group if m not in unfinished and m not in done]
        for first in range(0, len(waiting), size):
            wave = folder / "waves" / f"{number:04d}"
            wave.mkdir(parents=True, exist_ok=True)
            write_whole(wave / "wave.json", json.dumps(waiting[first : first + size]).encode())
            number += 1


def waves_in(folder: Path) -> list[tuple[Path, list[Member]]]:
    """Return the folder and the members of every unfinished wave, in order."""
    files = sorted((folder / "waves").glob("*/wave.json"))
    waves: list[tuple[Path, list[Member]]] = []
    for file in files:
        if file.parent.suffix != ".done":
            with contextlib.suppress(FileNotFoundError):  # another process has just finished it
                waves.append((file.parent, [_member(m) for m in read_json(file)]))
    return waves


_CLAIMED = "claimed"


@contextlib.contextmanager
def claimed(wave: Path) -> Iterator[bool]:
    """Give True to one of the processes that want to train a wave, and False to all others.

    If it fails, another process may take the wave.
    """
    try:
        (wave / _CLAIMED).mkdir()
    except (FileExistsError, FileNotFoundError):  # in training, or finished in the meantime
        yield False
        return
    try:
        yield True
    except BaseException:
        with contextlib.suppress(FileNotFoundError):  # it is finished
            (wave / _CLAIMED).rmdir()
        raise


def close_wave(wave: Path) -> None:
    """Remove a wave atomically."""
    done = wave.with_suffix(".done")
    os.replace(wave, done)
    shutil.rmtree(done)


def write_member(file: Path, member: Member, result: EnsembleResult, k: int) -> None:
    """Write values, history, results and parameters of one member to one file.

    Args:
        file: The file of the member.
        member: Its seed and its values.
        result: The result of its wave.
        k: Its index in the wave.
    """
    arrays = numbers_of(member, result, k)
    for which, params in (("final", result.final), ("best", result.best)):
        arrays |= {f"{which}.{name}": a[k] for name, a in flatten_params(params).items()}
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    write_whole(file, buffer.getvalue())


def row_of(file: Path) -> Row:
    """Return a finished member as a row of results.csv.

    Args:
        file: The file of the member.

    Raises:
        ValueError: The file is damaged. The message names it.
    """
    try:
        with np.load(file, allow_pickle=False) as archive:
            names = [n for n in archive.files if n.partition(".")[0] not in ("final", "best")]
            return row_from({name: archive[name] for name in names})
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{file} is not a readable member of a sweep: {error}; remove it to train the member "
            "again"
        ) from None


def write_results(
    folder: Path, members: Sequence[Member], *, figure: bool = True, write: bool = True
) -> list[Row]:
    """Write results.csv and the figure for the finished members, and return the rows.

    Args:
        folder: The folder of the sweep.
        members: The members, in the order of the rows.
        figure: If True, draw sweep.png.
        write: If False, write nothing.
    """
    rows = [row_of(member_file(folder, member)) for member in finished(folder, members)]
    if not rows or not write:
        return rows
    write_csv(rows, folder / "results.csv")
    if figure:
        draw(rows, folder / FIGURE)
    return rows


def write_csv(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Write rows to a CSV file. Columns that a row lacks, as in a smaller network, stay empty."""
    text = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, fieldnames=list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(file, text.getvalue().encode())


def draw(rows: Sequence[Mapping[str, Any]], file: Path) -> bool:
    """Draw the figure of a sweep over one or two parameters.

    Args:
        rows: Rows of results.csv.
        file: The file to write.

    Returns:
        False, without a file, unless one or two numbers are swept.
    """
    from snnjax import plotting

    varied = varied_in(rows)
    numbers = all(is_number(row[name]) for row in rows for name in varied)
    if len(varied) not in (1, 2) or not numbers:
        return False
    figure = (
        plotting.sweep_curves(rows, *varied)
        if len(varied) == 1
        else plotting.sweep_maps(rows, *varied)
    )
    plotting.save(figure, file)
    return True


def varied_in(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the swept options that differ between rows of results.csv, without the seed.

    >>> row = {"seed": 0, "mu_u": 0.0, "finite": True}
    >>> varied_in([{"sigma_u": 1.0} | row, {"sigma_u": 2.0} | row])
    ['sigma_u']
    """
    return [name for name in swept(rows) if len({row.get(name) for row in rows}) > 1]
