"""Parameters by name: a pytree of arrays as a flat dict, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np


def flatten_params(params: Any) -> dict[str, np.ndarray]:
    """A pytree of arrays as {path: array}, paths joined by dots.

    >>> sorted(flatten_params({"layers": [{"kernel": np.zeros(2)}]}))
    ['layers.0.kernel']
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value"): np.asarray(leaf) for path, leaf in leaves}


def unflatten_params(like: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """The inverse of `flatten_params`: a tree of the structure of `like` with the values of `arrays`.

    Raises:
      ValueError: a name is missing or superfluous, or a shape differs.
    """
    expected = flatten_params(like)
    if missing := sorted(expected.keys() ^ arrays.keys()):
        raise ValueError(f"parameters do not fit the network: {missing} in only one of the two")
    for name, leaf in expected.items():
        if leaf.shape != arrays[name].shape:
            raise ValueError(f"parameter {name} must have shape {leaf.shape}, got {arrays[name].shape}")
    return jax.tree.unflatten(jax.tree.structure(like), [arrays[name] for name in expected])
