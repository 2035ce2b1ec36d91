"""Parameters that must not become negative.

They have their own type, which is preserved by `nnx.split`, `jax.vmap`, gradients and checkpoints.
"""

from __future__ import annotations

import jax
from flax import nnx

from snnjax._pytree import PyTree


class NonNegative(nnx.Param):
    """A parameter with entries >= 0; `snnjax.optimizers.keep_nonnegative` keeps them >= 0.

    A filter for `nnx.Param` also selects it.
    """


def nonnegative(params: PyTree) -> PyTree:
    """Mark the parameters that are `NonNegative`.

    Args:
        params: A pytree of parameters, such as `nnx.state(network, nnx.Param)`.

    Returns:
        The same tree with True or False instead of each parameter.

    >>> import jax.numpy as jnp
    >>> module = nnx.Dict(a=NonNegative(jnp.ones(2)), b=nnx.Param(jnp.ones(3)))
    >>> jax.tree.leaves(nonnegative(nnx.state(module, nnx.Param)))
    [True, False]
    """
    is_marked = lambda leaf: isinstance(leaf, NonNegative)
    return jax.tree.map(is_marked, params, is_leaf=is_marked)
