r"""The files of a sweep, and the order of writing that makes a sweep safe to interrupt.

A run is a sweep with one member.

    FOLDER/config.json      options of the base experiment and of the sweep, and `members`: the
                            values of every member that was ever requested
    FOLDER/members/ID/      the files of a member. ID lists its seed and its values,
                            "seed=0,sigma_u=0.5". Those of a run are in FOLDER
        metrics.csv         one row per epoch
        final.npz, best.npz parameters
        results.json        its row of results.csv; a member with it is finished
        learning_curves.png, activity.png    figures of members that train alone, like a run
    FOLDER/waves/K/         an unfinished wave, members that train together: wave.json, and a
                            checkpoint after every few epochs, written by orbax
    FOLDER/results.csv      one row per member: its values, accuracies, rates, costs, and the probe
                            before training
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
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from snnjax import __version__
from snnjax._files import write_whole
from snnjax.experiments._results import swept
from snnjax.experiments._rows import Member, Row, Rows, is_number, shown
from snnjax.training._fit import FitResult
from snnjax.training._params import encode_params

FIGURE = "sweep.png"


def member_folder(folder: Path, member: Mapping[str, Any]) -> Path:
    """Return the folder of a member of the sweep in `folder`."""
    name = ",".join(f"{name}={shown(value)}" for name, value in sorted(member.items()))
    return folder / "members" / name.replace("/", "_") if member else folder


def row_in(place: Path) -> Row | None:
    """Return the row of a member, or None if it is not finished.

    Args:
        place: The folder of the member.

    Raises:
        ValueError: Its results.json is damaged. The message names it.
    """
    if not (file := place / "results.json").exists():
        return None
    row = read_json(file, hint="; remove it to train the network again")
    return row if "finite" in row else None


def finished(folder: Path, members: Sequence[Member]) -> list[Member]:
    """Return the members that have been trained."""
    return [member for member in members if row_in(member_folder(folder, member)) is not None]


def has_sweep(folder: Path, *, resume: bool) -> bool:
    """Return whether a folder has a run or a sweep, or is new. Nothing is written.

    Args:
        folder: The folder.
        resume: Whether what the folder has is to be continued.

    Raises:
        FileExistsError: The folder is not empty and has none, or it has one and `resume` is False.
    """
    if not (folder / "config.json").exists():
        # these are left by a process that was killed before it had trained anything
        own = (".lock", ".config.json.tmp")
        if folder.exists() and (
            not folder.is_dir() or any(p.name not in own for p in folder.iterdir())
        ):
            raise FileExistsError(
                f"{folder} is not an empty folder and has no run or sweep; name another folder"
            )
        return False
    if not resume:
        raise FileExistsError(
            f"{folder} has a run or a sweep; continue it with resume (--resume), or name another "
            "folder"
        )
    return True


def open_folder(folder: Path, config: dict[str, Any], members: Sequence[Member]) -> list[Member]:
    """Write config.json, if something in it is new. Return all members of the sweep.

    Args:
        folder: The folder of the sweep.
        config: Its content for a new sweep, except the members.
        members: The requested members.

    Raises:
        ValueError: The file is damaged.
    """
    new, union = not (folder / "config.json").exists(), members_of(folder, members)
    versions = {"versions": {"snnjax": __version__, "jax": jax.__version__}}
    saved = config | versions if new else read_config(folder)
    if new or union != planned(folder):
        write_json(folder / "config.json", saved | {"members": union})
    return union


def members_of(folder: Path, more: Sequence[Member]) -> list[Member]:
    """Return all members in the folder's config.json, and those of `more` that it does not have."""
    plan = planned(folder) if (folder / "config.json").exists() else []
    return plan + [m for m in more if m not in plan]


def planned(folder: Path) -> list[Member]:
    """Return all members of the sweep in `folder`. Errors are those of `read_config`."""
    return _members_of(read_config(folder))


def _members_of(content: Mapping[str, Any]) -> list[Member]:
    """Return the members in a file, as before JSON turned their tuples into lists; [] if it is
    damaged."""
    members = content.get("members")
    if not isinstance(members, list) or not all(isinstance(m, dict) for m in members):
        return []
    return [{n: tuple(v) if isinstance(v, list) else v for n, v in m.items()} for m in members]


def read_config(folder: Path) -> dict[str, Any]:
    """Return the content of config.json.

    Args:
        folder: The folder of a run or a sweep.

    Raises:
        FileNotFoundError: The folder has no such file.
        ValueError: The file is damaged, or of an earlier version.
    """
    if not (file := Path(folder) / "config.json").exists():
        raise FileNotFoundError(f"{folder} has no run or sweep: it has no config.json")
    content = read_json(file)
    if not isinstance(content.get("task"), str):
        raise ValueError(f"{file} must have the options of an experiment, with a task")
    if not _members_of(content):
        raise ValueError(
            f"{file} has no list of members: it is damaged, or from an earlier version of snnjax, "
            "whose folders cannot be read; begin a new one"
        )
    return content


def read_json(file: Path, *, hint: str = "") -> dict[str, Any]:
    """Return the content of a JSON file, a dict, or raise a ValueError that names it.

    Args:
        file: The file.
        hint: What to do if it is damaged.
    """
    try:
        content = json.loads(file.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} is not a JSON file: {error}{hint}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{file} must have names and values, got {content!r:.40}{hint}")
    return content


def write_json(file: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file."""
    write_whole(file, (json.dumps(content, indent=2, default=str) + "\n").encode())


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
                f"another process trains in {folder}; wait for it, or name another folder"
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
            write_json(wave / "wave.json", {"members": waiting[first : first + size]})
            number += 1


def waves_in(folder: Path) -> list[tuple[Path, list[Member]]]:
    """Return the folder and the members of every unfinished wave, in order.

    Args:
        folder: The folder of the sweep.

    Raises:
        ValueError: A wave.json is damaged. The message names it.
    """
    files = sorted((folder / "waves").glob("*/wave.json"))
    hint = "; remove its folder to train its networks again"
    waves: list[tuple[Path, list[Member]]] = []
    for file in files:
        if file.parent.suffix != ".done":
            with contextlib.suppress(FileNotFoundError):  # another process has just finished it
                if not (members := _members_of(read_json(file, hint=hint))):
                    raise ValueError(f"{file} has no list of members: it is damaged{hint}")
                waves.append((file.parent, members))
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


def write_params(place: Path, result: FitResult) -> None:
    """Write final.npz and best.npz to the folder of a member."""
    for name, params in (("final", result.final), ("best", result.best)):
        write_whole(place / f"{name}.npz", encode_params(params, ".npz"))


def write_member(place: Path, result: FitResult, row: Row) -> None:
    """Write the files of a finished member, results.json at the end.

    Args:
        place: The folder of the member.
        result: The result of its training.
        row: Its row.
    """
    place.mkdir(parents=True, exist_ok=True)
    write_csv(result.history, place / "metrics.csv")
    write_params(place, result)
    write_json(place / "results.json", row)


def rows_in(folder: Path, members: Sequence[Member]) -> list[Row]:
    """Return the rows of all finished members.

    Args:
        folder: The folder of the sweep.
        members: The members, in the order of the rows.
    """
    rows = (row_in(member_folder(folder, member)) for member in members)
    return [row for row in rows if row is not None]


def read(folders: Sequence[Path]) -> list[Row]:
    """Return the rows of the networks in each folder; of several folders, with their names.

    Args:
        folders: Folders of runs and sweeps.

    Raises:
        FileNotFoundError, ValueError: A folder has no results, or a file is damaged.
    """
    rows: list[Row] = []
    for folder in folders:
        if not (own := rows_in(folder, planned(folder))):
            raise ValueError(f"{folder} has no finished network")
        named = {"folder": folder.name} if len(folders) > 1 else {}
        rows += [named | row for row in own]
    return rows


def write_results(folder: Path, members: Sequence[Member], *, figure: bool = True) -> None:
    """Write results.csv and the figure for the finished members.

    Args:
        folder: The folder of the sweep.
        members: The members, in the order of the rows.
        figure: If True, draw sweep.png.
    """
    if rows := rows_in(folder, members):
        write_csv(rows, folder / "results.csv")
        if figure:
            draw(rows, folder / FIGURE)


def write_csv(rows: Rows, file: Path) -> None:
    """Write rows to a CSV file. Columns that a row lacks, as in a smaller network, stay empty."""
    text = io.StringIO()
    names = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, fieldnames=list(names), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(file, text.getvalue().encode())


def draw(rows: Rows, file: Path) -> bool:
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


def varied_in(rows: Rows) -> list[str]:
    """Return the swept options that differ between rows of results.csv, without the seed.

    >>> row = {"seed": 0, "mu_u": 0.0, "finite": True}
    >>> varied_in([{"sigma_u": 1.0} | row, {"sigma_u": 2.0} | row])
    ['sigma_u']
    """
    return [name for name in swept(rows) if len({row.get(name) for row in rows}) > 1]
