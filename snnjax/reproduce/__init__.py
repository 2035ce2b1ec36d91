"""The figures and tables of the paper as programs: `snnjax reproduce`."""

from snnjax.reproduce.targets import reproduce

__all__ = ["reproduce"]
