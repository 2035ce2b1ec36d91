"""One training step of a contestant on JAX: loss, backward pass and Adam in one jitted program."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import contest, works
from benchmarks.works import Work


def on_jax(
    work: Work,
    start: Callable[[int], Any],
    outputs: Callable[[Any, jax.Array], jax.Array],
    *,
    neuron: str,
    form: str,
) -> contest.Contest:
    """Return a contest with one jitted step. Seeds use `jax.vmap`.

    Args:
        work: The work.
        start: A function of the seed that returns the trained parameters.
        outputs: A function of parameters and spikes (time, batch, units) that returns the outputs
            of the network (time, batch, ...).
        neuron: The neuron model.
        form: Recurrent or feed-forward.
    """
    contest.check_plain(work)
    raster, labels = works.inputs_of(work)
    x, targets = jnp.asarray(raster, jnp.float32), jnp.asarray(labels)
    optimizer = optax.adam(works.LEARNING_RATE)

    def loss_of(params: Any, x: jax.Array, targets: jax.Array) -> jax.Array:
        out = outputs(params, x)
        if work.classes is None:
            return out.sum()
        return optax.softmax_cross_entropy_with_integer_labels(out.max(axis=0), targets).mean()

    def one(state: Any, x: jax.Array, targets: jax.Array) -> tuple[Any, jax.Array]:
        params, opt_state = state
        loss, gradient = jax.value_and_grad(loss_of)(params, x, targets)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), loss

    def state_of(seed: int) -> Any:
        params = start(seed)
        return params, optimizer.init(params)

    if work.seeds == 1:
        state, step = state_of(0), jax.jit(one, donate_argnums=0)
    else:
        stacked = lambda *leaves: jnp.stack(leaves)
        state = jax.tree.map(stacked, *(state_of(seed) for seed in range(work.seeds)))
        step = jax.jit(jax.vmap(one, in_axes=(0, None, None)), donate_argnums=0)
    held = [state]

    def advance() -> float:
        held[0], loss = step(held[0], x, targets)
        return float(np.ravel(loss)[-1])

    note = "vmap over seeds" if work.seeds > 1 else ""
    return contest.Contest(advance, neuron=neuron, form=form, note=note)
