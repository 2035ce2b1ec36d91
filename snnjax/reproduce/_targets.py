"""All figures and tables by name, and functions that run one or all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from snnjax._files import write_whole
from snnjax.experiments import MissingDataError
from snnjax.reproduce import (
    _figure1,
    _figure2,
    _figure3,
    _figure4,
    _figure5,
    _figure6,
    _figure7,
    _report,
    _supplement,
)
from snnjax.reproduce._settings import Options
from snnjax.reproduce._study import Announce, Finished, Study, check, run_study

TARGETS: Mapping[str, Callable[[Options], Study]] = {
    "figure1": _figure1.study,
    "figure2": _figure2.study,
    "figure3": _figure3.study,
    "figure4": _figure4.study,
    "figure5": _figure5.study,
    "figure6": _figure6.study,
    "figure7": _figure7.study,
    "table1": _figure6.study,
    "s4": _supplement.s4,
    "s5": _supplement.s5,
    "s8": _supplement.s8,
    "s9": _supplement.s9,
    "s10": _supplement.s10,
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


def reproduce(
    name: str, options: Options, root: Path, *, watch: Announce | None = None
) -> Finished:
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
    watch: Announce | None = None,
    on_study: Callable[[str, Finished | str], None] = lambda name, result: None,
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
            `snnjax.reproduce._study.check`. It is raised before any computation.
        FileExistsError: `root` has other content. It is raised before any computation.
    """
    studies: dict[str, Study | MissingDataError] = {}
    for name in dict.fromkeys(map(study_name, TARGETS)):
        try:
            studies[name] = study = TARGETS[name](options)
            check(study, root)
        except MissingDataError as error:
            studies[name] = error
    done = All([], {}, root / "report.md")
    for name, study in studies.items():
        try:
            if isinstance(study, MissingDataError):
                raise study
            done.finished.append(run_study(study, root, watch=watch))
            on_study(name, done.finished[-1])
        except MissingDataError as error:
            done.skipped[name] = str(error)
            on_study(name, str(error))
    root.mkdir(parents=True, exist_ok=True)
    write_whole(done.report, _report.index(done.finished, done.skipped, options.preset).encode())
    return done


def study_name(name: str) -> str:
    """Return the name of the study, and of its folder, of a target.

    >>> study_name("table1")
    'figure6'
    """
    return "figure6" if name == "table1" else name
