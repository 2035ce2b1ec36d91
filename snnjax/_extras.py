"""Packages that only some features need: the extras of snnjax."""

from __future__ import annotations

import importlib
from typing import Any


def package(module: str, extra: str, user: str) -> Any:
    """Import a module of an optional package.

    Args:
        module: The module.
        extra: The extra of snnjax that installs the package.
        user: What needs it, for the error.

    Returns:
        The module.

    Raises:
        ImportError: The package is not installed. The text says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        needs = f"{user} needs the package {module.partition('.')[0]}"
        raise ImportError(f"{needs}: pip install 'snnjax[{extra}]'") from None
