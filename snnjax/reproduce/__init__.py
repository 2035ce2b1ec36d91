"""The figures and tables of the paper as programs: `snnjax reproduce`."""

from snnjax.reproduce._targets import reproduce

__all__ = ["reproduce"]
