r"""Optimizers as optax transformations: SMORMS3, Muon, and a projection to weights >= 0.

SMORMS3 scales the step of each parameter by the consistency of its gradients:

    r    = 1 / (mem + 1)
    g    = (1 - r) g + r grad              g2 = (1 - r) g2 + r grad^2
    x    = g^2 / (g2 + eps)                mem = 1 + mem (1 - x)
    step = -min(lr, x) grad / (sqrt(g2) + eps)

with mem = 1, g = g2 = 0 at the start. Source: S. Funk (2015), RMSprop loses to SMORMS3 - beware the
epsilon!; used by Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb, with lr = 5e-3 and
eps = 1e-16.

Muon is from K. Jordan et al. (2024), https://kellerjordan.github.io/posts/muon. Here, Muon's steps
are relative to the weights. W (inputs, outputs) is the matrix of all weights into a layer:

    M    = beta M + (1 - beta) grad,        O = the matrix of M's singular vectors, all
                                                singular values 1
    step = -lr s O,                         s = sqrt(inputs) rms(W at the start)

One step changes the weights by at most the fraction lr of their root mean square at the start. The
same value therefore suits layers of any fan-in and networks of any depth. Adam trains parameters
that are not matrices.

The projection keeps weights >= 0 under any optimizer, for Dale's law: step <- max(step, -w).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from snnjax import _check
from snnjax._pytree import PyTree
from snnjax.nn._nonnegative import nonnegative

__all__ = ["muon", "smorms3", "keep_nonnegative"]

LearningRate = jax.typing.ArrayLike | optax.Schedule
"""A number, a traced value or an optax schedule `step -> value`."""


class Smorms3State(NamedTuple):
    """State of `smorms3`. The trees have the structure of the parameters, in at least float32.

    Attributes:
        steps: Number of steps taken, for schedules.
        mem: Memory length of each parameter.
        g: Running mean of the gradient.
        g2: Running mean of the squared gradient.
    """

    steps: jax.Array
    mem: optax.Params
    g: optax.Params
    g2: optax.Params


def smorms3(
    learning_rate: LearningRate = 5e-3, *, eps: float = 1e-16
) -> optax.GradientTransformation:
    """Return the SMORMS3 optimizer.

    It computes in at least float32, also for parameters of 16 bits, because in float16 squares of
    small gradients and `eps` itself are 0. The updates have the dtype of the gradients.

    Args:
        learning_rate: Largest relative step.
        eps: Small constant in the denominators.

    Returns:
        An optax transformation.

    Raises:
        ValueError: An argument is out of range.
        TypeError: An argument is not a number.

    >>> params = {"w": jnp.ones(3)}
    >>> optimizer = smorms3(5e-3)
    >>> updates, state = optimizer.update({"w": jnp.full(3, 2.0)}, optimizer.init(params))
    >>> f"{updates['w'][0]:.6f}"
    '-0.007071'
    """
    if not callable(learning_rate):
        _check.number("learning_rate", learning_rate, at_least=0)
    _check.number("eps", eps, above=0)

    def init(params: optax.Params) -> Smorms3State:
        def like(make: Callable[..., jax.Array]) -> optax.Params:
            return jax.tree.map(lambda p: make(p, dtype=_check.wide(jnp.result_type(p))), params)

        zero = jnp.zeros((), jnp.int32)
        return Smorms3State(zero, like(jnp.ones_like), like(jnp.zeros_like), like(jnp.zeros_like))

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, Smorms3State]:
        del params
        lr = learning_rate(state.steps) if callable(learning_rate) else learning_rate
        grads = jax.tree.map(_check.as_wide, updates)
        r = jax.tree.map(lambda mem: 1 / (mem + 1), state.mem)
        g = jax.tree.map(lambda r, g, d: (1 - r) * g + r * d, r, state.g, grads)
        g2 = jax.tree.map(lambda r, g2, d: (1 - r) * g2 + r * d**2, r, state.g2, grads)
        x = jax.tree.map(lambda g, g2: g**2 / (g2 + eps), g, g2)
        mem = jax.tree.map(lambda mem, x: 1 + mem * (1 - x), state.mem, x)

        def step(like: jax.Array, d: jax.Array, x: jax.Array, g2: jax.Array) -> jax.Array:
            return (-jnp.minimum(lr, x) * d / (jnp.sqrt(g2) + eps)).astype(jnp.result_type(like))

        steps = jax.tree.map(step, updates, grads, x, g2)
        counted = jnp.asarray(optax.safe_increment(state.steps))
        return steps, Smorms3State(counted, mem, g, g2)

    return optax.GradientTransformation(init, update)


def _orthogonal(m: jax.Array) -> jax.Array:
    """Return the matrix with m's singular vectors and singular values near 1 (0.7 to 1.2).

    Five Newton-Schulz steps x <- a x + b x^3 + c x^5 act on the singular values, with Jordan's
    constants.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = m.shape[0] > m.shape[1]
    x = m.T if tall else m
    tiny = jnp.finfo(x.dtype).tiny
    # scale first, because squares of small numbers underflow and those of large numbers overflow
    x = x / jnp.maximum(jnp.abs(x).max(), tiny)
    x = x / jnp.maximum(jnp.linalg.norm(x), tiny)
    for _ in range(5):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if tall else x


class MuonState(NamedTuple):
    """State of `muon`.

    Attributes:
        steps: Number of steps taken, for schedules.
        sizes: sqrt(inputs) times the root mean square of each matrix at the start, or 1 for a
            matrix of zeros; a list.
        momentum: M of each matrix; a list.
        others: State of Adam, for the other parameters.
    """

    steps: jax.Array
    sizes: list[jax.Array]
    momentum: list[jax.Array]
    others: optax.OptState


def muon(learning_rate: LearningRate = 0.015, *, beta: float = 0.9) -> optax.GradientTransformation:
    """Return Muon with steps relative to the size of the weights at the start.

    Args:
        learning_rate: Fraction of the size of the weights that one step changes in every direction.
            For parameters that are not matrices, the learning rate of Adam.
        beta: Decay of the momentum per step, in [0, 1).

    Returns:
        An optax transformation. Its updates have the dtype of the gradients.

    Raises:
        ValueError: An argument is out of range.
        TypeError: An argument is not a number.

    >>> params = {"w": jnp.array([[2.0, 0.0], [0.0, 2.0]])}
    >>> optimizer = muon(0.01)
    >>> gradients = {"w": jnp.array([[5.0, 0.0], [0.0, 0.1]])}
    >>> updates, _ = optimizer.update(gradients, optimizer.init(params))
    >>> [f"{-u:.3f}" for u in jnp.diag(updates["w"])]  # the same in both directions
    ['0.014', '0.014']
    """
    if not callable(learning_rate):
        _check.number("learning_rate", learning_rate, at_least=0)
    _check.number("beta", beta, at_least=0, below=1)
    adam = optax.scale_by_adam(b2=0.99)  # a run of some hundred steps is too short for 0.999

    def split(tree: optax.Params) -> tuple[list[jax.Array], list[jax.Array]]:
        """Return the matrices (inputs, outputs), and the other leaves."""
        leaves = [_check.as_wide(leaf) for leaf in jax.tree.leaves(tree)]
        matrices = [leaf.reshape(-1, leaf.shape[-1]) for leaf in leaves if leaf.ndim > 1]
        return matrices, [leaf for leaf in leaves if leaf.ndim <= 1]

    def init(params: optax.Params) -> MuonState:
        matrices, others = split(params)
        sizes = [jnp.sqrt(jnp.square(w).mean() * len(w)) for w in matrices]
        sizes = [jnp.where(s > 0, s, 1.0) for s in sizes]  # else matrices of zeros never change
        zero = jnp.zeros((), jnp.int32)
        return MuonState(zero, sizes, jax.tree.map(jnp.zeros_like, matrices), adam.init(others))

    def update(
        updates: optax.Updates, state: Any, params: optax.Params | None = None
    ) -> tuple[optax.Updates, MuonState]:
        del params
        lr: Any = learning_rate(state.steps) if callable(learning_rate) else learning_rate
        matrices, others = split(updates)
        mix = lambda m, g: beta * m + (1 - beta) * g
        momentum = jax.tree.map(mix, state.momentum, matrices)
        ahead = jax.tree.map(mix, momentum, matrices)  # Nesterov
        steps, of_others = adam.update(others, state.others)
        rest = iter([-lr * step for step in jax.tree.leaves(steps)])
        turned = iter([-lr * s * _orthogonal(m) for s, m in zip(state.sizes, ahead, strict=True)])
        new = lambda g: next(turned if g.ndim > 1 else rest).reshape(g.shape).astype(g.dtype)
        changed = jax.tree.map(new, updates)
        counted = jnp.asarray(optax.safe_increment(state.steps))
        return changed, MuonState(counted, state.sizes, momentum, of_others)

    return optax.GradientTransformation(init, update)


def keep_nonnegative(mask: PyTree = None) -> optax.GradientTransformation:
    """Project marked parameters to >= 0 after every update; the last transformation of a chain.

    An update u of a weight w >= 0 becomes max(u, -w), so that w + u is exactly max(w + u, 0). A NaN
    update stays NaN. Other parameters are not changed.

    Args:
        mask: Marked parameters: a pytree of booleans with the structure of the parameters, or a
            prefix of it; or a state of the network, whose parameters of type
            `snnjax.nn.NonNegative` are marked, as all weights of Dalian layers are. None: that type
            among the parameters themselves. `nnx.Optimizer` passes plain arrays, without this type;
            there use `keep_nonnegative(nnx.state(network, nnx.Param))`.

    Returns:
        An optax transformation.

    Raises:
        ValueError: An update is called without parameters.
        TypeError: `mask` is None, and the parameters are plain arrays.

    >>> params = {"a": jnp.array([1.0, 0.25]), "b": jnp.array([0.25])}
    >>> optimizer = optax.chain(optax.sgd(1.0), keep_nonnegative({"a": True, "b": False}))
    >>> gradients = {"a": jnp.array([0.5, 0.5]), "b": jnp.array([0.5])}
    >>> updates, _ = optimizer.update(gradients, optimizer.init(params), params)
    >>> {name: w.tolist() for name, w in optax.apply_updates(params, updates).items()}
    {'a': [0.5, 0.0], 'b': [-0.25]}
    """
    is_variable = lambda leaf: isinstance(leaf, nnx.Variable)
    if any(map(is_variable, jax.tree.leaves(mask, is_leaf=is_variable))):
        mask = nonnegative(mask)

    def check(params: optax.Params) -> None:
        leaves = jax.tree.leaves(params, is_leaf=is_variable)
        if mask is None and leaves and not any(map(is_variable, leaves)):
            raise TypeError(
                "mask must be given to keep_nonnegative for parameters that are plain arrays, as "
                "nnx.Optimizer passes them: they have no type NonNegative; use "
                "keep_nonnegative(nnx.state(network, nnx.Param))"
            )

    def init(params: optax.Params) -> optax.EmptyState:
        check(params)
        return optax.EmptyState()

    def update(
        updates: optax.Updates, state: optax.OptState, params: optax.Params | None = None
    ) -> tuple[optax.Updates, optax.OptState]:
        if params is None:
            example = "optimizer.update(gradients, state, params)"
            raise ValueError(f"params must be given to keep_nonnegative, as in {example}, got None")
        check(params)

        def project(marked: bool, w: optax.Params, u: optax.Updates) -> optax.Updates:
            return jax.tree.map(lambda w, u: jnp.maximum(u, -w), w, u) if marked else u

        marked = nonnegative(params) if mask is None else mask
        return jax.tree.map(project, marked, params, updates), state

    return optax.GradientTransformation(init, update)
