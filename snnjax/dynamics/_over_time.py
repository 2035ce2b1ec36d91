"""Loops over time steps, as fast as the machine allows.

On a GPU, launching the kernels of one `jax.lax.scan` step takes about 10 us; the computation itself
takes nanoseconds. So there are two loops:

    elementwise   Used if no element needs the past of another one. NVIDIA GPUs get one kernel: each
                  thread follows one element from the first step to the last with its state in
                  registers, and the time is that of reading and writing the traces.
    loop          Used in all other cases. On a GPU the loop is unrolled `UNROLL` steps at a time,
                  which XLA fuses into fewer kernel launches.

On an H200, the forward and backward pass of a trial of 350 steps of 64 x 128 neurons took 12.7 ms
as a scan, 1.7 ms unrolled and 0.25 ms by the kernel (Pallas Triton). With recurrent weights it took
8.9 ms as a scan and 1.9 ms unrolled. On CPUs unrolled scans are slower.

The kernel reads `AHEAD` steps before it computes them, because a load takes longer than the rest of
a step. Its body is the same on both backends of Pallas. JAX supports Mosaic GPU, and deprecates
Triton since 0.11. A process takes the first backend in `BACKENDS` that runs a small kernel with the
results of a scan. If there is none, the loop replaces the kernel, and one warning says so.
"""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
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
AHEAD = 8
"""Steps read at once."""
Backend = Literal["mosaic", "triton"]
BACKENDS: dict[Backend, int] = {"mosaic": 128, "triton": 64}
"""Backends, in the order of preference, and the threads of a program, one per element."""
MOST = 2**31 - 1
"""Largest number of elements of an array that the kernel can address."""


def on_gpu() -> bool:
    """Return whether this process computes on a GPU by default."""
    return jax.default_backend() == "gpu"


@functools.cache
def backend() -> Backend | None:
    """Return the first backend that runs a small kernel; None without one.

    The result is cached, so that there is one check and at most one warning per process.

    Warns:
        UserWarning: There is none.
    """
    failed = []
    for name in BACKENDS:
        try:
            if runs(name):
                return name
            failed.append(f"{name}: its results are not those of a scan")
        except Exception as error:  # a backend that is missing or broken raises errors of any type
            failed.append(f"{name}: {type(error).__name__} {str(error)[:200]}")
    warnings.warn(
        f"JAX {jax.__version__} cannot run the GPU kernel of snnjax ({'; '.join(failed)}). Loops "
        "over time run as unrolled scans instead. The results are the same, but layers without "
        "recurrence take 7 to 15 times as long (measured on an H200 and an H100). Install another "
        "JAX to use the kernel.",
        stacklevel=3,
    )
    return None


def runs(name: Backend) -> bool:
    """Whether a small kernel of a backend gives the results of a scan on this machine."""

    def body(decay: jax.Array, u: jax.Array, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        v = decay * u + x
        return jnp.where(v > 1, 0.0, v), jnp.exp(-jnp.abs(v - 1))

    shape = (AHEAD + 1, BACKENDS[name] + 1)  # neither a multiple of a program's size
    x = np.sin(np.arange(math.prod(shape), dtype=np.float32)).reshape(shape)
    given = np.float32(0.9), x[0], x
    found, wanted = (
        # compiled ahead, so that it also runs while another program is traced
        jax.jit(functools.partial(run, body)).lower(*given).compile()(*given)
        for run in (functools.partial(gpu_kernel, backend=name), loop)
    )
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True)
    return all(np.allclose(a, b, atol=1e-5) for a, b in pairs)


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
    elements = steps * _padded(math.prod(shape), max(BACKENDS.values()))
    # 64-bit numbers are for tests of accuracy; Mosaic has no kernels for them
    wide = any(jnp.result_type(a).itemsize > 4 for a in jax.tree.leaves((constants, carry, xs)))
    if not on_gpu() or not 0 < elements <= MOST or wide or (chosen := backend()) is None:
        return by_loop(constants, carry, xs)
    by_kernel = functools.partial(gpu_kernel, body, reverse=reverse, backend=chosen)
    return jax.lax.platform_dependent(constants, carry, xs, cuda=by_kernel, default=by_loop)


def loop(
    body: Callable[[C, S, X], tuple[S, Y]], constants: C, carry: S, xs: X, *, reverse: bool = False
) -> tuple[S, Y]:
    """Run any body with `jax.lax.scan`; it can be differentiated."""
    step = lambda s, x: body(constants, s, x)
    return jax.lax.scan(step, carry, xs, reverse=reverse, unroll=UNROLL if on_gpu() else 1)


def _padded(size: int, block: int) -> int:
    return -(-size // block) * block


def gpu_kernel(
    body: Callable[[C, S, X], tuple[S, Y]],
    constants: C,
    carry: S,
    xs: X,
    *,
    reverse: bool = False,
    backend: Backend = "mosaic",
    interpret: bool = False,
) -> tuple[S, Y]:
    """Run an elementwise body in one GPU kernel. `interpret=True` needs no GPU; for tests."""
    steps, *shape = jax.tree.leaves(xs)[0].shape
    size, block = math.prod(shape), BACKENDS[backend]
    padded = _padded(size, block)

    def flat(a: ArrayLike, lead: tuple[int, ...]) -> jax.Array:
        a = jnp.broadcast_to(a, (*lead, *shape)).reshape(*lead, size)
        widths = [*((0, 0) for _ in lead), (0, padded - size)]
        return a if size == padded else jnp.pad(a, widths, mode="edge")

    whole = tuple(jax.tree.map(lambda a: flat(a, ()), tree) for tree in (constants, carry))
    args = (*whole, jax.tree.map(lambda a: flat(a, (steps,)), xs))
    leaves, structure = jax.tree.flatten(args)
    one = jax.tree.unflatten(structure, [jax.ShapeDtypeStruct((block,), a.dtype) for a in leaves])
    final, y = jax.eval_shape(body, *one)
    final_leaves, final_structure = jax.tree.flatten(final)
    y_leaves, y_structure = jax.tree.flatten(y)

    def program(at: Any, *refs: Any) -> None:
        constant_refs, carry_refs, x_refs = jax.tree.unflatten(structure, refs[: len(leaves)])
        final_refs = refs[len(leaves) : len(leaves) + len(final_leaves)]
        y_refs = refs[len(leaves) + len(final_leaves) :]
        read = functools.partial(jax.tree.map, lambda ref: ref[at])
        c = read(constant_refs)

        def some(first: int | jax.Array, s: S, n: int) -> S:
            times = [steps - 1 - (first + k) if reverse else first + k for k in range(n)]
            ahead = [jax.tree.map(lambda ref, t=t: ref[t, at], x_refs) for t in times]
            for t, x in zip(times, ahead, strict=True):
                s, y = body(c, s, x)
                for ref, value in zip(y_refs, jax.tree.leaves(y), strict=True):
                    ref[t, at] = value
            return s

        parts, rest = divmod(steps, AHEAD)
        ahead_of = lambda k, s: some(k * AHEAD, s, AHEAD)
        s = jax.lax.fori_loop(0, parts, ahead_of, read(carry_refs))
        s = some(parts * AHEAD, s, rest)
        for ref, value in zip(final_refs, jax.tree.leaves(s), strict=True):
            ref[at] = value

    out_type = [
        *(jax.ShapeDtypeStruct((padded,), a.dtype) for a in final_leaves),
        *(jax.ShapeDtypeStruct((steps, padded), a.dtype) for a in y_leaves),
    ]
    launch = _by_mosaic if backend == "mosaic" else _by_triton
    out = launch(program, leaves, out_type, block, interpret)
    shaped = [a[..., :size].reshape(*a.shape[:-1], *shape) for a in out]
    last, traces = shaped[: len(final_leaves)], shaped[len(final_leaves) :]
    return final_structure.unflatten(last), y_structure.unflatten(traces)


Program = Callable[..., None]
"""A program of a kernel, of its part of the last axis and of all arrays, inputs before outputs."""


def _by_mosaic(
    program: Program, given: list[Any], out_type: list[Any], block: int, interpret: bool
) -> Any:
    from jax.experimental import pallas as pl
    from jax.experimental.pallas import mosaic_gpu

    grid = (out_type[0].shape[-1] // block,)

    def of(index: Callable[[], Any]) -> Callable[..., None]:
        return lambda *refs: program(pl.ds(index() * block, block), *refs)

    if interpret:  # Mosaic has an interpreter of its own only in JAX >= 0.12
        number = functools.partial(pl.program_id, 0)
        run = pl.pallas_call(of(number), grid=grid, out_shape=out_type, interpret=True)
    else:
        number = functools.partial(jax.lax.axis_index, "block")
        run = mosaic_gpu.kernel(of(number), out_type=out_type, grid=grid, grid_names=("block",))
    return run(*given)


def _by_triton(
    program: Program, given: list[Any], out_type: list[Any], block: int, interpret: bool
) -> Any:
    from jax.experimental import pallas as pl

    options: dict[str, Any] = {"interpret": interpret}
    if not interpret:
        from jax.experimental.pallas import triton

        options = {"compiler_params": triton.CompilerParams(num_warps=block // 32)}

    def part(a: Any) -> Any:
        if a.ndim == 2:
            return pl.BlockSpec((a.shape[0], block), lambda j: (0, j))
        return pl.BlockSpec((block,), lambda j: (j,))

    return pl.pallas_call(
        lambda *refs: program(slice(None), *refs),
        grid=(out_type[0].shape[-1] // block,),
        in_specs=[part(a) for a in given],
        out_specs=[part(a) for a in out_type],
        out_shape=out_type,
        name="snnjax_elementwise_scan",
        **options,
    )(*given)
