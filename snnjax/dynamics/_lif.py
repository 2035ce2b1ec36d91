r"""Current-based leaky integrate-and-fire neuron.

    z[t]   = spike(u[t] - theta)                                    1 if u[t] > theta
    u[t+1] = reset(lm u[t] + (1 - lm) i[t], z[t])                   lm = exp(-dt/tau_mem)
    i[t+1] = ls i[t] + drive[t]                                     ls = exp(-dt/tau_syn)

with u[0] = i[0] = 0. A spike that arrives at step t moves u at t + 2. Resets:
`snnjax.dynamics.apply_reset`. Source: Rossbroich, Gygax & Zenke (2022),
doi 10.1088/2634-4386/ac97bb, section 4.1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, get_args

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import DTypeLike

from snnjax import _check, _time
from snnjax._check import Scalar
from snnjax._pytree import pytree_dataclass, static
from snnjax.dynamics._lif_vjp import Arguments, Leaves, Program, jitted_lif_scan
from snnjax.dynamics._neuron import (
    Drive,
    Interval,
    Memory,
    Neuron,
    Reset,
    Run,
    Simulation,
    apply_reset,
)
from snnjax.psp import PSP, Kernel
from snnjax.surrogate import SpikeFunction, superspike

CONSTANT = (int, float, np.ndarray, np.generic)
"""Types of numbers that are not trained."""


@pytree_dataclass
class IntegrateAndFire(Neuron):
    """What the integrate-and-fire models share.

    Attributes:
        theta: Firing threshold, > 0.
        u_reset: Membrane after a spike, for `reset="to_value"`.
        spike: A function of u - theta, normally a `snnjax.surrogate.SpikeFunction`.
        dt: Time step, s.
        reset: `"multiplicative"`, `"to_value"` or `"subtractive"`.
        reset_grad: Whether to differentiate through the reset.
    """

    theta: Scalar = 1.0
    u_reset: Scalar = 0.0
    spike: SpikeFunction = superspike(20.0)
    dt: float = static(default=2e-3)
    reset: Reset = static(default="multiplicative")
    reset_grad: bool = static(default=False)

    ranges: ClassVar[Mapping[str, Interval]] = {
        "theta": (0.0, math.inf),
        "u_reset": (-math.inf, math.inf),
    }
    state_type: ClassVar[type[Any]]
    """Type of the state, a NamedTuple of arrays, which begin with zeros."""
    currents: ClassVar[Mapping[str, int]] = {}
    """Names of the synaptic time constants, and the signs of their currents. Without currents, the
    drive itself moves the membrane."""

    def __post_init__(self) -> None:
        for name in self.currents:
            check_tau(name, getattr(self, name))
        check_dt(self.dt)
        _check.number("theta", self.theta, above=0)
        _check.number("u_reset", self.u_reset)
        if not callable(self.spike):
            expected = "a function of u - theta, for example snnjax.surrogate.superspike(20.0)"
            raise TypeError(f"spike must be {expected}, got {self.spike!r}")
        _check.one_of("reset", self.reset, get_args(Reset))
        if not isinstance(self.reset_grad, bool):
            raise TypeError(f"reset_grad must be True or False, got {self.reset_grad!r}")

    def initial_state(self, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Any:
        """Return zeros for a population of `shape` (batch, ...features), in at least float32."""
        names = self.state_type._fields
        return self.state_type(*(jnp.zeros(shape, _check.wide(dtype)) for _ in names))

    @property
    def leak(self) -> tuple[Any, Any]:
        """lm and gain of u[t+1] = lm u[t] + gain i[t], as (lm, gain)."""
        return 1.0, 1.0

    def reset_where(self, z: jax.Array, u: jax.Array, theta: Scalar) -> jax.Array:
        """Reset the membrane u where z is 1; a subtractive reset subtracts `theta`."""
        return apply_reset(
            u, z, reset=self.reset, reset_grad=self.reset_grad, theta=theta, u_reset=self.u_reset
        )


@pytree_dataclass
class LeakyIntegrateAndFire(IntegrateAndFire):
    """What the models with a leak share.

    Attributes:
        tau_mem: Membrane time constant, s. A number, or an array that broadcasts against the
            features (one value per neuron). Differentiable if it is a JAX array.
    """

    tau_mem: Scalar = 20e-3

    def __post_init__(self) -> None:
        check_tau("tau_mem", self.tau_mem)
        super().__post_init__()

    @property
    def leak(self) -> tuple[Any, Any]:
        """lm = exp(-dt/tau_mem) and 1 - lm."""
        lm = _time.decay(self.dt, self.tau_mem)
        return lm, 1 - lm


@pytree_dataclass
class FusedScan(IntegrateAndFire):
    """A model with a fixed threshold, whose `scan` has a backward pass written by hand.

    Attributes:
        trace_dtype: Type in which u - theta is stored for the gradient, for example `"bfloat16"`:
            half the bytes, the same spikes, and a surrogate derivative within 1 %. None: that of
            the membrane. Only the backward pass that is written by hand uses it (see
            `snnjax.dynamics.simulate`). Whether a training step needs less memory depends on
            the compiler: on a CPU it did not (`snnjax.training.step_memory`).
    """

    trace_dtype: Any = static(default=None)

    plain_step: ClassVar[Callable[..., Any]]
    """The `step` for which the backward pass is right; a subclass may have another."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # A trace may be rounded as long as it keeps its sign: float16 has no numbers small enough.
        if self.trace_dtype not in (None, "bfloat16", "float32"):
            allowed = "None, 'bfloat16' or 'float32'"
            raise ValueError(f"trace_dtype must be {allowed}, got {self.trace_dtype!r}")

    @property
    def fused(self) -> bool:
        """Whether `scan` has a backward pass written by hand for these parameters."""
        constant = [*self.leak, self.theta, *(getattr(self, name) for name in self.currents)]
        return (
            type(self).step is type(self).plain_step
            and self.reset == "multiplicative"
            and not self.reset_grad
            and type(self.spike) is SpikeFunction
            and all(isinstance(value, CONSTANT) for value in constant)
        )

    def population(self, drive: Drive) -> tuple[int, ...]:
        """Return the shape (batch, ...features) to which the drives of all currents broadcast."""
        leaves = jax.tree.leaves(drive)
        shapes = ", ".join(str(leaf.shape) for leaf in leaves)
        if len({(leaf.shape[0], leaf.ndim) for leaf in leaves}) > 1:
            needed = "arrays of the same number of steps and axes"
            raise ValueError(f"drive must hold {needed}, got {shapes}")
        try:
            return np.broadcast_shapes(*(leaf.shape[1:] for leaf in leaves))
        except ValueError:
            needed = "arrays (time, batch, ...features) that broadcast against each other"
            raise ValueError(f"drive must hold {needed}, got {shapes}") from None

    def scan(self, run: Run) -> Simulation:
        """`Neuron.scan`, with the backward pass of `_lif_vjp` where it applies."""
        if not self.fused:
            return super().scan(run)
        state, recurrent, weights = run.state, run.recurrent, run.weights
        if recurrent is not None and weights is None and not isinstance(recurrent, Memory):
            # A custom_vjp cannot see weights that the function closes over, which may be traced.
            # They become arguments.
            silent = jnp.zeros(jnp.shape(state[0]), state[0].dtype)
            closed, weights = jax.closure_convert(recurrent, silent, None)
            recurrent = lambda z, w: closed(z, None, *w)
        currents = tuple(jax.tree.leaves(run.drive))
        dtype = currents[0].dtype

        library = lambda v: np if isinstance(v, CONSTANT) else jnp
        in_dtype = functools.partial(jax.tree.map, lambda v: library(v).asarray(v, dtype))

        lm, gain = self.leak
        ls = [_time.decay(self.dt, getattr(self, name)) for name in self.currents]
        program = Program(
            self.spike.function,
            self.spike.elementwise,
            None if recurrent is None else Leaves(recurrent),
            tuple(self.currents.values()),
            run.membrane,
            jnp.dtype(self.trace_dtype or dtype),
        )
        coefficients = in_dtype((lm, gain, ls, self.theta))
        start, steepness = in_dtype(tuple(state)), in_dtype(self.spike.steepness)
        given = Arguments(currents, start, weights, coefficients, steepness, run.queue)
        output, trace, final, queue = jitted_lif_scan(program, given)
        final = jax.tree.unflatten(jax.tree.structure(state), final)
        return Simulation(final, output, trace, queue)


class LIFState(NamedTuple):
    """State of a `LIF` population, arrays (batch, ...features).

    Attributes:
        u: Membrane potential.
        i: Synaptic current.
    """

    u: jax.Array
    i: jax.Array


@pytree_dataclass
class LIF(FusedScan, LeakyIntegrateAndFire):
    """Parameters of a LIF population.

    Attributes:
        tau_mem: Membrane time constant, s. A number, or an array that broadcasts against the
            features (one value per neuron). Differentiable if it is a JAX array.
        tau_syn: Synaptic time constant, s, likewise.
        theta: Firing threshold, > 0.
        u_reset: Membrane after a spike, for `reset="to_value"`.
        spike: A function of u - theta, normally a `snnjax.surrogate.SpikeFunction`.
        dt: Time step, s.
        reset: `"multiplicative"`, `"to_value"` or `"subtractive"`.
        reset_grad: Whether to differentiate through the reset.
        trace_dtype: Type of the trace that the gradient needs, see `FusedScan`.

    Raises:
        ValueError: A value is out of range.
        TypeError: A value has the wrong type.

    >>> import jax.numpy as jnp
    >>> neuron = LIF(tau_mem=20e-3, tau_syn=10e-3, dt=2e-3)
    >>> state = neuron.initial_state((1, 1))
    >>> spikes = []
    >>> for t in range(12):
    ...     state, z = neuron.step(state, jnp.full((1, 1), 5.0 * (t == 0)))
    ...     spikes.append(int(z[0, 0]))
    >>> spikes
    [0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
    """

    tau_syn: Scalar = 10e-3

    state_type = LIFState
    currents: ClassVar[Mapping[str, int]] = {"tau_syn": 1}

    @property
    def kernel(self) -> PSP:
        """The post-synaptic potential, in closed form."""
        if type(self).step is not LIF.step:
            return super().kernel
        return Kernel(tau_mem=self.tau_mem, tau_syn=self.tau_syn, dt=self.dt)

    def step(self, state: LIFState, drive: jax.Array) -> tuple[LIFState, jax.Array]:
        """Return the next state and the spikes z[t], all of the state's shape and dtype.

        `scan` does not call this if all parameters are constant: it computes the same step in
        `snnjax/dynamics/_lif_vjp.py`, with a backward pass written by hand. Change both together.
        """
        u, i = state
        z = self.spike(u - self.theta)
        lm, ls = _time.decay(self.dt, self.tau_mem), _time.decay(self.dt, self.tau_syn)
        u_next = self.reset_where(z, lm * u + (1 - lm) * i, self.theta)
        return LIFState(u_next.astype(u.dtype), (ls * i + drive).astype(i.dtype)), z

    plain_step = step


def check_tau(name: str, tau: Scalar) -> None:
    """Raise unless a time constant is positive; one above 1 s gets a hint at the units."""
    _check.number(name, tau, above=0, unit="s")
    _check.hint_seconds(name, tau)


def check_dt(dt: float) -> None:
    """Raise unless dt is a positive plain number: it is part of the structure of a model."""
    check_tau("dt", dt)
    if not isinstance(dt, int | float):
        got = type(dt).__name__
        raise TypeError(f"dt must be a plain number of seconds (it is static), got {got}")
