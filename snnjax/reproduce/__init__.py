"""The figures and tables of the paper as programs: `snnjax reproduce`."""

from snnjax.reproduce.data import MissingDataError
from snnjax.reproduce.published import NUMBERS, TABLE_1, Published
from snnjax.reproduce.settings import Options, Preset
from snnjax.reproduce.statements import Statement, Verdict
from snnjax.reproduce.study import Finished, Study, run_study
from snnjax.reproduce.targets import TARGETS, reproduce, reproduce_all

__all__ = [
    "NUMBERS",
    "TABLE_1",
    "TARGETS",
    "Finished",
    "MissingDataError",
    "Options",
    "Preset",
    "Published",
    "Statement",
    "Study",
    "Verdict",
    "reproduce",
    "reproduce_all",
    "run_study",
]
