r"""The post-synaptic potential of a current-based LIF neuron and its integrals.

One input spike of weight 1 moves the membrane by eps(t). In continuous time

    eps(t) = tau_syn / (tau_mem - tau_syn) * (exp(-t/tau_mem) - exp(-t/tau_syn))
    ebar   = int eps(t) dt   = tau_syn
    ehat   = int eps(t)^2 dt = tau_syn^2 / (2 (tau_syn + tau_mem))

where eps(t) = t/tau exp(-t/tau) if the two time constants are equal. For the discrete dynamics of
`snnjax.dynamics.LIF`, with lm = exp(-dt/tau_mem) and ls = exp(-dt/tau_syn),

    eps[k] = (1 - lm) sum_{j=0}^{k-2} lm^(k-2-j) ls^j       k = 0, 1, 2, ...; eps[0] = eps[1] = 0
    ebar   = dt sum_k eps[k]   = dt / (1 - ls)
    ehat   = dt sum_k eps[k]^2 = dt (1 - lm) (1 + lm ls) / ((1 + lm) (1 - ls^2) (1 - lm ls))

The closed forms are exact, and regular at tau_mem = tau_syn. The reference implementation sums the
kernel over 10 tau instead. Source: Rossbroich, Gygax & Zenke (2022),
doi 10.1088/2634-4386/ac97bb; the discrete closed form is ours.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol, get_args

import jax
import jax.numpy as jnp
import numpy as np

from snnjax import _check, _time
from snnjax._check import Scalar
from snnjax._pytree import pytree_dataclass, static

__all__ = ["Kernel"]

KernelMode = Literal["discrete", "continuous"]


class PSP(Protocol):
    """A post-synaptic potential, known by its time step and two integrals.

    `Kernel` is that of a LIF neuron. `snnjax.dynamics.Neuron.kernel` measures that of any neuron.
    """

    @property
    def dt(self) -> Scalar:
        """Time step, s."""
        ...

    def mean(self) -> Scalar:
        """Return ebar, the integral of the potential, s."""
        ...

    def power(self) -> Scalar:
        """Return ehat, the integral of its square, s."""
        ...


class Integrals(NamedTuple):
    """A post-synaptic potential of which only the integrals are known.

    Attributes:
        dt: Time step, s.
        ebar: Integral of the potential, s.
        ehat: Integral of its square, s.
    """

    dt: Scalar
    ebar: Scalar
    ehat: Scalar

    def mean(self) -> Scalar:
        """Return ebar."""
        return self.ebar

    def power(self) -> Scalar:
        """Return ehat."""
        return self.ehat


@pytree_dataclass
class Kernel:
    """The post-synaptic potential of a LIF neuron.

    Attributes:
        tau_mem: Membrane time constant, s. A number, or an array that broadcasts (one per neuron).
        tau_syn: Synaptic time constant, s, likewise.
        dt: Time step, s. The integrals of the continuous mode do not depend on it.
        mode: `"discrete"`, the kernel of the simulation, or `"continuous"`, its limit for dt -> 0.

    Raises:
        ValueError: A time is not finite and positive, or there is no such mode.

    >>> kernel = Kernel(tau_mem=20e-3, tau_syn=10e-3, dt=2e-3)
    >>> f"{kernel.mean():.7f} {kernel.power():.8f}"
    '0.0110333 0.00203561'
    >>> Kernel(tau_syn=10e-3, mode="continuous").mean()
    0.01
    """

    tau_mem: Scalar = 20e-3
    tau_syn: Scalar = 10e-3
    dt: Scalar = 2e-3
    mode: KernelMode = static(default="discrete")

    def __post_init__(self) -> None:
        for name in ("tau_mem", "tau_syn", "dt"):
            _check.number(name, getattr(self, name), above=0, unit="s")
        _check.one_of("mode", self.mode, get_args(KernelMode))

    def mean(self) -> Scalar:
        """Return ebar, the integral of the kernel.

        Returns:
            Seconds; float64 for plain numbers and numpy arrays, else the dtype of the JAX arrays,
            but at least float32.
        """
        if self.mode == "continuous":
            return self.tau_syn
        _, xs, xp = self._steps()
        return self.dt / -xp.expm1(-xs)

    def power(self) -> Scalar:
        """Return ehat, the integral of the square of the kernel.

        Returns:
            Seconds, of the type of `mean`.
        """
        if self.mode == "continuous":
            return self.tau_syn**2 / (2 * (self.tau_syn + self.tau_mem))
        xm, xs, xp = self._steps()
        lm, ls = xp.exp(-xm), xp.exp(-xs)
        # 1 - exp(-x) through expm1: no digits are lost if dt is much shorter than tau.
        above = -xp.expm1(-xm) * (1 + lm * ls)
        below = (1 + lm) * -xp.expm1(-2 * xs) * -xp.expm1(-xm - xs)
        return self.dt * above / below

    def _steps(self) -> tuple[Scalar, Scalar, Any]:
        """Return dt/tau_mem, dt/tau_syn and the library for them."""
        # 16 bits keep too few digits of 1 - exp(-dt/tau).
        wide = lambda t: _check.as_wide(t) if isinstance(t, jax.Array) else t
        tau_mem, tau_syn = wide(self.tau_mem), wide(self.tau_syn)
        return self.dt / tau_mem, self.dt / tau_syn, namespace(tau_mem, tau_syn, self.dt)

    def response(self, duration: float) -> np.ndarray:
        """Return the kernel eps at the time steps 0, dt, 2 dt, ... below `duration`.

        Args:
            duration: Seconds.

        Returns:
            float64 of shape (ceil(duration / dt),). The times must be plain numbers.

        >>> eps = Kernel(tau_mem=20e-3, tau_syn=10e-3, dt=2e-3).response(0.4)
        >>> eps.shape, int(eps.argmax())
        ((200,), 8)
        """
        dt, rates = float(self.dt), (1 / float(self.tau_mem), 1 / float(self.tau_syn))
        k = np.arange(_time.num_steps(duration, dt), dtype=np.float64)
        # (exp(-a t) - exp(-b t)) / (b - a), written with the slower exponential in front and expm1:
        # no digits are lost if a is close to b.
        slow, gap = min(rates), abs(rates[0] - rates[1])
        if self.mode == "continuous":
            t = k * dt
            return np.exp(-slow * t) * rates[0] * (-np.expm1(-gap * t) / gap if gap else t)
        m = np.maximum(k - 1, 0)
        powers = np.expm1(-gap * dt * m) / np.expm1(-gap * dt) if gap else m
        return -np.expm1(-dt * rates[0]) * np.exp(-slow * dt * (m - 1)) * powers


class ExcInhKernels(NamedTuple):
    """The post-synaptic potentials of a neuron with two currents, without their signs.

    Attributes:
        exc: That of the excitatory current.
        inh: That of the inhibitory current.
    """

    exc: PSP = Kernel()
    inh: PSP = Kernel(tau_syn=20e-3)


def namespace(*values: Any) -> Any:
    """Return jax.numpy if one of the values is a JAX array or traced, else numpy (float64)."""
    return jnp if any(isinstance(v, jax.Array) for v in values) else np
