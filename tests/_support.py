"""Shared by several test modules: shared data, 64-bit mode, and LIF equations in plain numpy.

The equations are those of theory.md, forward and backward.
"""

from __future__ import annotations

import importlib.util
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from snnjax.theory import Afferent

REPOSITORY = Path(__file__).resolve().parents[1]


def data_path(relative: str) -> Path:
    """Return a file of the shared data, below $SNNJAX_DATA or else below ../shared/data.

    If it is absent, the test is skipped; in CI it fails.
    """
    root = os.environ.get("SNNJAX_DATA")
    path = (Path(root) if root else REPOSITORY.parent / "shared" / "data") / relative
    if not path.exists():
        message = (
            f"shared data not found: {path}; set SNNJAX_DATA to the folder that holds {relative}"
        )
        if os.environ.get("CI") == "true":
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    return path


def require(module: str) -> None:
    """Skip the test, or at the top of a module all of its tests, if an optional package is absent.

    CI installs all of them, so there the test fails.
    """
    if importlib.util.find_spec(module) is None:
        message = f"{module} is not installed; it is among the dev dependencies"
        if os.environ.get("CI") == "true":
            pytest.fail(message, pytrace=False)
        pytest.skip(message, allow_module_level=True)


def device_flags(count: int) -> str:
    """Return XLA_FLAGS for a process with `count` devices that compiles as the tests do."""
    return f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}"


def enable_x64() -> AbstractContextManager:
    """Use float64 within a `with` block."""
    if hasattr(jax, "enable_x64"):
        return jax.enable_x64(True)
    from jax.experimental import enable_x64 as experimental  # jax < 0.8

    return experimental()


def populations(exc, inh, rec=(0, 1.0)) -> dict[str, Afferent]:
    """The arguments `exc`, `inh` and, unless its number is 0, `rec` of `dalian_rates`; each (number of inputs, rate in Hz)."""
    given = {"exc": Afferent(*exc), "inh": Afferent(*inh), "rec": Afferent(*rec)}
    return {name: afferent for name, afferent in given.items() if afferent.n or name != "rec"}


def spikes(seed: int, shape: tuple[int, ...], *, rate, dt: float = 2e-3) -> jax.Array:
    """Poisson spike counts (time, batch, ...units), float32, `rate` in Hz.

    They are drawn by NumPy, because XLA compiles slowly and, in tests, runs slowly.
    """
    return jnp.asarray(
        np.random.default_rng(seed).poisson(np.asarray(rate) * dt, shape), jnp.float32
    )


def forward(module, x):
    """`module(x)` as one program. Outside jit, each of its operations is compiled by itself.

    `nnx.jit` does not serve here: it compares modules, and neurons may have arrays of NumPy.
    """
    graphdef, state = nnx.split(module)
    return jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state, x)


@jax.jit
def batch(source, indices, key=None):
    """`source.batch` as one program for all sources of the same shapes.

    Outside jit, each of its operations is compiled by itself.
    """
    return source.batch(indices, key)


def assert_close(actual, desired, rtol: float) -> None:
    """Assert |actual - desired| <= rtol * max |desired|.

    The tolerance is relative to the scale of the array, so that entries that cancel need no
    precision of their own.
    """
    desired = np.asarray(desired, dtype=np.float64)
    actual = np.asarray(actual, dtype=np.float64)
    assert actual.shape == desired.shape
    np.testing.assert_allclose(
        actual, desired, rtol=0, atol=rtol * max(np.abs(desired).max(), np.finfo(np.float64).tiny)
    )


CONVOLVED = 1e-12 if jax.default_backend() == "cpu" else 1e-5
"""How close float64 convolutions of one and of many samples come: those of GPUs are of single precision."""
ON_CPU = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="about CPUs; this process computes on an accelerator"
)


def assert_gradients_are_finite_differences(loss, arguments, *, rtol=1e-6, unused=()) -> None:
    """Assert that gradients of `loss` are central differences.

    For each argument, the difference is along a random direction of the argument's own scale.
    """
    value, rng = jax.jit(loss), np.random.default_rng(99)
    gradients = jax.jit(jax.grad(loss, argnums=tuple(range(len(arguments)))))(*arguments)
    for k, (argument, gradient) in enumerate(zip(arguments, gradients, strict=True)):
        step = (
            1e-5 * np.sqrt(np.mean(np.square(argument))) * rng.standard_normal(np.shape(argument))
        )
        up, down = (
            value(*(a + sign * step if j == k else a for j, a in enumerate(arguments)))
            for sign in (1, -1)
        )
        difference = float(up - down) / 2
        along = float(np.sum(gradient * step))
        assert (along == 0) == (k in unused)
        # the difference has the rounding errors of its two values
        assert abs(along - difference) <= rtol * abs(difference) + 1e-14 * abs(float(up)), (
            k,
            along,
            difference,
        )


def superspike_derivative(v, beta=20.0):
    return 1 / (beta * np.abs(v) + 1) ** 2


class LIFRun(NamedTuple):
    z: np.ndarray
    u: np.ndarray
    u_final: np.ndarray
    i_final: np.ndarray


class LIFGradients(NamedTuple):
    drive: np.ndarray
    recurrent: np.ndarray
    u0: np.ndarray
    i0: np.ndarray


def lif_loop(
    drive,
    *,
    v=None,
    u0=0.0,
    i0=0.0,
    tau_mem=20e-3,
    tau_syn=10e-3,
    theta=1.0,
    u_reset=0.0,
    reset="multiplicative",
    dt=2e-3,
) -> LIFRun:
    """theory.md's LIF, step by step in float64.

    drive is (T, B, n); the recurrent weights v are (n, n), (sender, receiver).
    """
    lm, ls = np.exp(-dt / np.asarray(tau_mem)), np.exp(-dt / np.asarray(tau_syn))
    u, i = np.zeros(drive.shape[1:]) + u0, np.zeros(drive.shape[1:]) + i0
    zs, us = [], []
    for x in np.asarray(drive, np.float64):
        z = np.where(u > theta, 1.0, 0.0)
        zs.append(z)
        us.append(u)
        free = lm * u + (1 - lm) * i
        u = {
            "multiplicative": free * (1 - z),
            "to_value": np.where(z == 1, u_reset, free),
            "subtractive": free - theta * z,
        }[reset]
        i = ls * i + x + (0 if v is None else z @ v)
    return LIFRun(np.array(zs), np.array(us), u, i)


def lif_backward(
    drive, g_z, g_u, g_u_final, g_i_final, *, v, u0, i0, reset_grad=False, h=superspike_derivative, reset="multiplicative",
    tau_mem=20e-3, tau_syn=10e-3, theta=1.0, u_reset=0.0, dt=2e-3,
) -> LIFGradients:  # fmt: skip
    """Gradients by hand-written backpropagation through time.

    The loss is sum(g_z z) + sum(g_u u) + sum(g_u_final u[T]) + sum(g_i_final i[T]).
    """
    lm, ls = np.exp(-dt / np.asarray(tau_mem)), np.exp(-dt / np.asarray(tau_syn))
    run = lif_loop(
        drive,
        v=v,
        u0=u0,
        i0=i0,
        tau_mem=tau_mem,
        tau_syn=tau_syn,
        theta=theta,
        u_reset=u_reset,
        reset=reset,
        dt=dt,
    )
    currents = [np.zeros(drive.shape[1:]) + i0]
    for x, z in zip(drive[:-1], run.z[:-1], strict=True):
        currents.append(ls * currents[-1] + x + z @ v)
    g_drive, g_v = np.zeros_like(drive), np.zeros_like(v)
    gu, gi = g_u_final, g_i_final  # cotangents of u[t+1], i[t+1]
    for t in reversed(range(len(drive))):
        u, z = run.u[t], run.z[t]
        free = lm * u + (1 - lm) * currents[t]
        g_drive[t] = gi
        g_v += z.T @ gi
        # u[t+1] = R(free, z): its derivative by free, and by z if the reset is
        # differentiated
        d_free = 1.0 if reset == "subtractive" else 1 - z
        d_z = (
            {"multiplicative": -free, "to_value": u_reset - free, "subtractive": -theta}[reset]
            if reset_grad
            else 0.0
        )
        gz = g_z[t] + gi @ v.T + gu * d_z
        gu, gi = g_u[t] + lm * d_free * gu + gz * h(u - theta), ls * gi + (1 - lm) * d_free * gu
    return LIFGradients(g_drive, g_v, gu, gi)
