"""Loops over time steps, as fast as the machine allows.

On a GPU, launching the kernels of one `jax.lax.scan` step takes about 10 us; the computation itself
takes nanoseconds. So there are two loops:

    elementwise   Used if no element needs the past of another one. NVIDIA GPUs get one kernel: each
                  thread follows one element from the first step to the last with its state in
                  registers, and the time is that of reading and writing the traces.
    loop          Used in all other cases. On a GPU the loop is unrolled `UNROLL` steps at a time,
                  which XLA fuses into fewer kernel launches.

On an H200, the forward and backward pass of a trial of 350 steps of 64 x 128 neurons took 12.7 ms
as a scan, 1.7 ms unrolled and 0.25 ms by the kernel. With recurrent weights it took 8.9 ms as a
scan and 1.9 ms unrolled. On CPUs unrolled scans are slower.

The kernel reads `AHEAD` steps before it computes them, because a load takes longer than the rest of
a step. It is written in Pallas Triton, which JAX 0.11 deprecated. If JAX does not have it, the loop
replaces the kernel, and one warning says so.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

C = TypeVar("C")
"""Constants of a loop."""
S = TypeVar("S")
"""What a loop carries from step to step."""
X = TypeVar("X")
"""What a step takes."""
Y = TypeVar("Y")
"""What a step gives."""

UNROLL = 8
"""Steps of a loop that are unrolled on a GPU."""
AHEAD, BLOCK, WARPS = 8, 64, 2
"""Steps read at once; elements per program, a power of two; groups of 32 threads per program."""
MOST = 2**31 - 1
"""Largest number of elements of an array that the kernel can address."""


def on_gpu() -> bool:
    """Return whether this process computes on a GPU by default."""
    return jax.default_backend() == "gpu"


@functools.cache
def has_triton() -> bool:
    """Return whether the installed JAX has Pallas Triton, which the kernel needs.

    The result is cached, so that there is one warning per process.

    Warns:
        UserWarning: JAX has no Pallas Triton.
    """
    try:
        from jax.experimental.pallas.triton import CompilerParams  # noqa: F401
    except ImportError as error:
        warnings.warn(
            f"JAX {jax.__version__} has no Pallas Triton, which the GPU kernel of snnjax needs "
            f"({error}). Loops over time run as unrolled scans instead. The results are the same, "
            "but layers without recurrence take 7 to 15 times as long (measured on an H200 and an "
            "H100). Install an older JAX to use the kernel.",
            stacklevel=3,
        )
        return False
    return True


def elementwise(
    body: Callable[[C, S, X], tuple[S, Y]], constants: C, carry: S, xs: X, *, reverse: bool = False
) -> tuple[S, Y]:
    """Run `carry, y = body(constants, carry, x)` over time. Not differentiable.

    Args:
        body: An elementwise function that captures no arrays.
        constants: Arrays that broadcast to the shape of the population, (batch, ...features).
        carry: Arrays of that shape.
        xs: Arrays (time, batch, ...features).
        reverse: Whether to run from the last step to the first.

    Returns:
        The final carry, and all y, as `jax.lax.scan` returns them.

    >>> body = lambda c, s, x: (c * s + x, s)
    >>> _, y = elementwise(body, jnp.array(0.5), jnp.array([8.0]), jnp.ones((3, 1)))
    >>> y.ravel().tolist()
    [8.0, 5.0, 3.5]
    """
    by_loop = functools.partial(loop, body, reverse=reverse)
    steps, *shape = jax.tree.leaves(xs)[0].shape
    # A process without a GPU neither imports nor traces the kernel.
    if not on_gpu() or not 0 < steps * _padded(math.prod(shape)) <= MOST or not has_triton():
        return by_loop(constants, carry, xs)
    by_kernel = functools.partial(gpu_kernel, body, reverse=reverse)
    return jax.lax.platform_dependent(constants, carry, xs, cuda=by_kernel, default=by_loop)


def loop(
    body: Callable[[C, S, X], tuple[S, Y]], constants: C, carry: S, xs: X, *, reverse: bool = False
) -> tuple[S, Y]:
    """Run any body with `jax.lax.scan`; it can be differentiated."""
    step = lambda s, x: body(constants, s, x)
    return jax.lax.scan(step, carry, xs, reverse=reverse, unroll=UNROLL if on_gpu() else 1)


def _padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def gpu_kernel(
    body: Callable[[C, S, X], tuple[S, Y]],
    constants: C,
    carry: S,
    xs: X,
    *,
    reverse: bool = False,
    interpret: bool = False,
) -> tuple[S, Y]:
    """Run an elementwise body in one GPU kernel. `interpret=True` needs no GPU; for tests."""
    from jax.experimental import pallas as pl

    compiler_params = None
    if not interpret:
        from jax.experimental.pallas import triton

        compiler_params = triton.CompilerParams(num_warps=WARPS)
    steps, *shape = jax.tree.leaves(xs)[0].shape
    size = math.prod(shape)
    padded = _padded(size)

    def flat(a: ArrayLike, lead: tuple[int, ...]) -> jax.Array:
        a = jnp.broadcast_to(a, (*lead, *shape)).reshape(*lead, size)
        widths = [*((0, 0) for _ in lead), (0, padded - size)]
        return a if size == padded else jnp.pad(a, widths, mode="edge")

    whole = tuple(jax.tree.map(lambda a: flat(a, ()), tree) for tree in (constants, carry))
    args = (*whole, jax.tree.map(lambda a: flat(a, (steps,)), xs))
    leaves, structure = jax.tree.flatten(args)
    one = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct((BLOCK,), a.dtype) for a in leaves])
    final, y = jax.eval_shape(body, *one)
    final_leaves, final_structure = jax.tree.flatten(final)
    y_leaves, y_structure = jax.tree.flatten(y)

    def program(*refs: Any) -> None:
        constant_refs, carry_refs, x_refs = jax.tree.unflatten(structure, refs[: len(leaves)])
        final_refs = refs[len(leaves) : len(leaves) + len(final_leaves)]
        y_refs = refs[len(leaves) + len(final_leaves) :]
        read = functools.partial(jax.tree.map, lambda ref: ref[...])
        c = read(constant_refs)

        def some(first: int | jax.Array, s: S, n: int) -> S:
            at = [steps - 1 - (first + k) if reverse else first + k for k in range(n)]
            ahead = [jax.tree.map(lambda ref, t=t: ref[t, :], x_refs) for t in at]
            for t, x in zip(at, ahead, strict=True):
                s, y = body(c, s, x)
                for ref, value in zip(y_refs, jax.tree.leaves(y), strict=True):
                    ref[t, :] = value
            return s

        parts, rest = divmod(steps, AHEAD)
        ahead_of = lambda k, s: some(k * AHEAD, s, AHEAD)
        s = jax.lax.fori_loop(0, parts, ahead_of, read(carry_refs))
        s = some(parts * AHEAD, s, rest)
        for ref, value in zip(final_refs, jax.tree.leaves(s), strict=True):
            ref[...] = value

    def spec(lead: bool) -> Any:
        if lead:
            return pl.BlockSpec((steps, BLOCK), lambda j: (0, j))
        return pl.BlockSpec((BLOCK,), lambda j: (j,))

    out = pl.pallas_call(
        program,
        grid=(padded // BLOCK,),
        in_specs=[spec(a.ndim == 2) for a in leaves],
        out_specs=[*(spec(False) for _ in final_leaves), *(spec(True) for _ in y_leaves)],
        out_shape=[
            *(jax.ShapeDtypeStruct((padded,), a.dtype) for a in final_leaves),
            *(jax.ShapeDtypeStruct((steps, padded), a.dtype) for a in y_leaves),
        ],
        compiler_params=compiler_params,
        interpret=interpret,
        name="snnjax_elementwise_scan",
    )(*leaves)
    shaped = [a[..., :size].reshape(*a.shape[:-1], *shape) for a in out]
    last, traces = shaped[: len(final_leaves)], shaped[len(final_leaves) :]
    return final_structure.unflatten(last), y_structure.unflatten(traces)
