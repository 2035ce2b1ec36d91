"""Parameters that must not become negative, told from all others by their type, which survives `nnx.split`, `jax.vmap`, gradients and checkpoints."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx


class NonNegative(nnx.Param):
    """A parameter whose every entry is >= 0; `snnjax.optimizers.keep_nonnegative` keeps it there. A filter for `nnx.Param` takes it too."""


def nonnegative(params: Any) -> Any:
    """Which of `params`, a pytree such as `nnx.state(network, nnx.Param)`, are `NonNegative`: the same tree with True or False in place of each.

    >>> import jax.numpy as jnp
    >>> module = nnx.Dict(a=NonNegative(jnp.ones(2)), b=nnx.Param(jnp.ones(3)))
    >>> jax.tree.leaves(nonnegative(nnx.state(module, nnx.Param)))
    [True, False]
    """
    return jax.tree.map(
        lambda leaf: isinstance(leaf, NonNegative),
        params,
        is_leaf=lambda leaf: isinstance(leaf, NonNegative),
    )
