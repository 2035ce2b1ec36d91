"""A neuron model over a whole sequence: the checks, then the model's own scan."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike

from snnjax import _check
from snnjax._pytree import PyTree
from snnjax.dynamics import _neuron
from snnjax.dynamics._neuron import Drive, Neuron, Recurrent, Run, Simulation, State, Weights
from snnjax.dynamics._response import HasMembrane


def simulate(
    neuron: Neuron,
    drive: Drive,
    *,
    recurrent: Recurrent | None = None,
    weights: Weights = None,
    state: State | None = None,
    membrane: bool = False,
    fused: bool | None = None,
) -> Simulation:
    """Run a population of neurons over a sequence.

    A sequence may be run in two parts, the second one from the final state of the first. The
    result is that of the whole sequence. All results are in at least float32, for every type of the
    drive.

    Args:
        neuron: The neuron model.
        drive: Input of the synaptic current in each step, (time, batch, ...features): the
            product of inputs and weights for all steps. A pytree of such arrays for neurons with
            several currents.
        recurrent: `(z, weights) -> drive` for the output z (batch, ...features) of one step, linear
            in z. None without recurrence.
        weights: Second argument of `recurrent`, or None if it has its own.
        state: State before the first step, of the structure and shapes of `neuron.initial_state`.
            None: the initial state.
        membrane: Whether to return the trace of `state.u` (time, batch, ...features), too.
        fused: Whether to use the backward pass of `LIF` and `ExcInhLIF` that is written by hand.
            It stores only u - theta, in their `trace_dtype`. None uses it if it applies: the reset
            must be multiplicative and not differentiated, the spike function a `SpikeFunction`,
            and time constants and threshold plain numbers or numpy arrays (JAX arrays get their
            gradients from autodiff). True raises an error if it does not apply. It supports
            neither forward-mode derivatives (`jax.jvp`) nor, on a GPU, second derivatives. On a
            GPU, the same is true of the backward pass of `LeakyIntegrator`. False uses neither of
            the two, so that forward mode, reverse mode and mixtures of them work.

    Returns:
        `Simulation(state, output, membrane)`.

    Raises:
        TypeError: `neuron` is no `Neuron`, or the drive is not floating point.
        ValueError: The drive has no time steps, fewer than two axes, or arrays that do not
            broadcast; the state is that of another population; or `fused=True` does not apply.

    >>> import jax.numpy as jnp
    >>> from snnjax.dynamics import LIF
    >>> sim = simulate(LIF(), jnp.full((50, 1, 2), 0.4), membrane=True)
    >>> sim.output.shape, sim.output.sum(0).tolist()
    ((50, 1, 2), [[5.0, 5.0]])
    """
    _neuron.check_neuron(neuron)
    for leaf in jax.tree.leaves(drive):
        if not isinstance(leaf, jax.Array | np.ndarray | np.generic):
            got = type(leaf).__name__
            raise TypeError(f"drive must hold arrays (time, batch, ...features), got {got}")
        if leaf.ndim < 2 or 0 in leaf.shape[:1]:
            needed = "shape (time, batch, ...features) with at least one time step"
            raise ValueError(f"drive must have {needed}, got {leaf.shape}")
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            raise TypeError(f"drive must be floating point, got {leaf.dtype}")
    drive = jax.tree.map(_check.as_wide, drive)
    state = _start(neuron, state, neuron.population(drive), jax.tree.leaves(drive)[0].dtype)
    if membrane and not isinstance(state, HasMembrane):
        got = type(state).__name__
        raise ValueError(f"membrane=True needs a state with a membrane u, which {got} has not")
    if fused and not neuron.fused:
        raise ValueError(
            "fused=True needs a LIF or ExcInhLIF with reset='multiplicative', reset_grad=False, a "
            "SpikeFunction, and time constants and theta that are plain numbers or numpy arrays, "
            f"got {neuron!r}"
        )
    run = Run(drive=drive, weights=weights, state=state, recurrent=recurrent, membrane=membrane)
    return Neuron.scan(neuron, run) if fused is False else neuron.scan(run)


def _start(neuron: Neuron, state: State | None, shape: tuple[int, ...], dtype: DTypeLike) -> State:
    """Return the initial state, or `state` after a check that it is one of such a population."""
    if state is None:
        return neuron.initial_state(shape, dtype)
    expected = jax.eval_shape(lambda: neuron.initial_state(shape, dtype))
    same_structure = jax.tree.structure(state) == jax.tree.structure(expected)
    if not same_structure or _shapes(state) != _shapes(expected):
        needed = f"{type(expected).__name__} with arrays of shape {', '.join(_shapes(expected))}"
        got = f"{type(state).__name__} with {', '.join(_shapes(state)) or 'no arrays'}"
        hint = "a state fits the batch size and the layer that it comes from"
        raise ValueError(f"state must be {needed}, as for this input, got {got}; {hint}")

    converted = lambda s, e: jnp.asarray(s, jnp.promote_types(jnp.result_type(s), e.dtype))
    return jax.tree.map(converted, state, expected)


def _shapes(tree: PyTree) -> list[str]:
    return [str(jnp.shape(leaf)) for leaf in jax.tree.leaves(tree)]


def dense_recurrence(z: jax.Array, weights: jax.Array) -> jax.Array:
    """Return z @ V for spikes z (batch, n) and weights V (n, n), sender by receiver."""
    return z @ weights
