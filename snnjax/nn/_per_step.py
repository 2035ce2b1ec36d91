"""Flax modules that do not depend on time, applied to each time step."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from snnjax.nn._layer import Layer, Shape, unlisted
from snnjax.nn._shape import Stateless, known


class PerStep(Stateless):
    """A Flax module that is applied to every time step and sample independently.

    `Sequential` wraps every module that is not a layer of snnjax in it, such as `nnx.Linear`,
    `nnx.Conv` or `nnx.LayerNorm`. The module receives time and batch as one batch, arrays
    (time * batch, ...features).

    Args:
        module: A callable module whose only variables are parameters.

    Raises:
        TypeError: The module is not callable, or it has variables that are no parameters: running
            statistics, random numbers or a state.

    >>> layer = PerStep(nnx.Linear(20, 8, rngs=nnx.Rngs(0)))
    >>> layer(jnp.ones((100, 4, 20))).output.shape, layer.feature_shape((20,))
    ((100, 4, 8), (8,))
    """

    def __init__(self, module: nnx.Module) -> None:
        name = type(module).__name__
        if isinstance(module, nnx.RNNCellBase | nnx.RNN):
            raise TypeError(
                f"{name} has its own state over time, which Sequential cannot carry; derive a "
                "layer from snnjax.nn.Layer, with initial_state and step"
            )
        if not callable(module):
            raise TypeError(f"module must be a callable flax.nnx module, got {name}")
        carried = {type(v).__name__ for v in _variables(module) if not isinstance(v, nnx.Param)}
        if carried:
            raise TypeError(
                f"{name} has variables that are no parameters ({', '.join(sorted(carried))}), "
                "which training does not carry from batch to batch; use nnx.LayerNorm, "
                "nnx.RMSNorm or nnx.GroupNorm in place of nnx.BatchNorm or, in a spiking layer, "
                "norm=snnjax.nn.BatchNorm(), and snnjax.nn.Dropout in place of nnx.Dropout"
            )
        self.module = module

    @property
    def in_shape(self) -> Shape | None:
        module = self.module
        if isinstance(module, nnx.Linear):
            return (module.in_features,)
        if isinstance(module, nnx.Conv):
            sizes = module.kernel_size
            axes = 1 if isinstance(sizes, int) else len(sizes)
            return (*(None,) * axes, module.in_features)
        return None

    @unlisted
    def feature_shape(self, features: Shape) -> Shape | None:
        module, sizes = self.module, known(features)
        if isinstance(module, nnx.Linear | nnx.Conv) and features[-1] not in (
            None,
            module.in_features,
        ):
            raise ValueError(
                f"{type(module).__name__} expects {module.in_features} inputs but gets "
                f"{features[-1]}"
            )
        if sizes is None:
            return (*features[:-1], module.out_features) if isinstance(module, nnx.Linear) else None
        graphdef, state = nnx.split(module)
        x = jax.ShapeDtypeStruct((1, *sizes), jnp.float32)
        try:
            out = jax.eval_shape(lambda s, x: nnx.merge(graphdef, s)(x), state, x)
        except (TypeError, ValueError) as error:
            name = type(module).__name__
            raise ValueError(f"{name} cannot take features of shape {sizes}: {error}") from error
        if not isinstance(out, jax.ShapeDtypeStruct) or out.shape[:1] != (1,) or out.ndim < 2:
            raise ValueError(
                f"{type(module).__name__} between layers must return one array (batch, "
                f"...features), got {out}"
            )
        return out.shape[1:]

    def _map(self, x: jax.Array) -> jax.Array:
        # spikes may be integers or booleans
        return self.module(x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(jnp.float32))


def layer_name(layer: Layer) -> str:
    """Return the name of the class of a layer, or of the module that `PerStep` wraps."""
    return type(layer.module if isinstance(layer, PerStep) else layer).__name__


def _variables(module: nnx.Module) -> list[Any]:
    is_variable = lambda leaf: isinstance(leaf, nnx.Variable)
    return [v for v in jax.tree.leaves(nnx.state(module), is_leaf=is_variable) if is_variable(v)]
