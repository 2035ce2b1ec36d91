"""All figures and tables by name, and functions that run one or all of them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from snnjax._files import write_whole
from snnjax.reproduce import (
    figure1,
    figure2,
    figure3,
    figure4,
    figure5,
    figure6,
    figure7,
    report,
    supplement,
)
from snnjax.reproduce.arms import Watch
from snnjax.reproduce.data import MissingDataError
from snnjax.reproduce.settings import Options
from snnjax.reproduce.study import Finished, Study, check, run_study

TARGETS: Mapping[str, Callable[[Options], Study]] = {
    "figure1": figure1.study,
    "figure2": figure2.study,
    "figure3": figure3.study,
    "figure4": figure4.study,
    "figure5": figure5.study,
    "figure6": figure6.study,
    "figure7": figure7.study,
    "table1": figure6.study,
    "s4": supplement.s4,
    "s5": supplement.s5,
    "s8": supplement.s8,
    "s9": supplement.s9,
    "s10": supplement.s10,
}
"""Name -> study. Figure 6 and table 1 show the same runs and are one study, in the folder
`figure6`."""


class All(NamedTuple):
    """The results of `reproduce_all`.

    Attributes:
        finished: The studies.
        skipped: Names of studies that were not run, and the reasons.
        report: The page of all studies.
    """

    finished: list[Finished]
    skipped: dict[str, str]
    report: Path


def reproduce(name: str, options: Options, root: Path, *, watch: Watch | None = None) -> Finished:
    """Run or continue one figure or table.

    Args:
        name: Name in `TARGETS`.
        options: The options of the user.
        root: Folder of the studies.
        watch: A function that is called with each unit that is computed.

    Raises:
        MissingDataError: The data are not available. Other errors are those of `run_study`.
    """
    return run_study(TARGETS[name](options), root, watch=watch)


def reproduce_all(
    options: Options,
    root: Path,
    *,
    watch: Watch | None = None,
    on_study: Callable[[str, Finished | str], None] | None = None,
) -> All:
    """Run or continue all figures and tables whose data are available.

    The page of all studies gives the reasons for those that were not run.

    Args:
        options: As in `reproduce`.
        root: As in `reproduce`.
        watch: As in `reproduce`.
        on_study: A function that is called with each name and its result, or the reason why it was
            not run.

    Raises:
        ValueError: `root` has studies with other settings, or a damaged one; see
            `snnjax.reproduce.study.check`. It is raised before any computation.
        FileExistsError: `root` has other content. It is raised before any computation.
    """
    finished, skipped, studies = [], {}, {}
    for name in dict.fromkeys(study_name(name) for name in TARGETS):
        try:
            studies[name] = TARGETS[name](options)
        except MissingDataError as error:
            studies[name] = str(error)
        else:
            check(studies[name], root)
    for name, study in studies.items():
        if isinstance(study, str):
            result = skipped[name] = study
        else:
            try:
                finished.append(result := run_study(study, root, watch=watch))
            except MissingDataError as error:
                result = skipped[name] = str(error)
        if on_study is not None:
            on_study(name, result)
    page = root / "report.md"
    with contextlib.suppress(FileExistsError):
        root.mkdir(parents=True)
    write_whole(page, report.index(finished, skipped, options.preset).encode())
    return All(finished, skipped, page)


def study_name(name: str) -> str:
    """Return the name of the study, and of its folder, of a target.

    >>> study_name("table1")
    'figure6'
    """
    return "figure6" if name == "table1" else name
