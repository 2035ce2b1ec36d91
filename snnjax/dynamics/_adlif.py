r"""Adaptive LIF neuron with sub-threshold coupling, in symplectic Euler steps: it can oscillate.

    z[t]   = spike(u[t] - theta)                                    1 if u[t] > theta
    v[t]   = reset(u[t], z[t])                                      the membrane after the spike
    w[t+1] = lw w[t] + (1 - lw) q (a v[t] + b z[t])                 lw = exp(-dt/tau_w)
    u[t+1] = lm v[t] + (1 - lm) (drive[t] - w[t+1])                 lm = exp(-dt/tau_mem)

with u[0] = w[0] = 0. The adaptation w follows the membrane with the strength a (sub-threshold) and
the spikes with the strength b. Euler's forward step would use w[t] in the last line; the step with
w[t+1] keeps oscillations that the continuous system has. q only gives a and b a scale: 120 is the
published value, for a in [0, 1] and b in [0, 2]. There the time constants are in steps: 5 to 25 of
them for tau_mem, and 60 to 300 for tau_w.

Below the threshold (u, w) is linear. Without input it decays only if

    q a tanh(dt / (2 tau_mem)) tanh(dt / (2 tau_w)) < 1

and then the integrals of its kernel, the discrete Lyapunov equation of the pair solved by hand, are

    ebar = dt / (1 + q a)
    ehat = dt tanh(dt / (2 tau_mem)) (1 + 2 lw (1 - lm) q a / ((1 + lw) (1 - lm lw)))
              / ((1 + q a) (1 - q a tanh(dt / (2 tau_mem)) tanh(dt / (2 tau_w))))

At a = 0 they are those of `Leaky`. The adaptation removes a constant input up to 1 / (1 + q a), so
that means are small and neurons differ little (quenched spread), also without balanced weights.

Source: Baronig, Ferrand, Sabathiel & Legenstein (2025), arXiv 2408.07517. The kernel is ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import jax

from snnjax import _check, _time
from snnjax._check import Scalar
from snnjax._pytree import pytree_dataclass
from snnjax.dynamics._draw import Uniform
from snnjax.dynamics._lif import LeakyIntegrateAndFire, check_tau
from snnjax.dynamics._neuron import Interval
from snnjax.psp import PSP, Integrals, namespace


class AdLIFState(NamedTuple):
    """State of an `AdLIF` population, arrays (batch, ...features).

    Attributes:
        u: Membrane potential, before a spike resets it.
        w: Adaptation variable.
    """

    u: jax.Array
    w: jax.Array


@pytree_dataclass
class AdLIF(LeakyIntegrateAndFire):
    """Parameters of a population of adaptive LIF neurons, the SE-adLIF of its publication.

    Attributes:
        tau_mem: Membrane time constant, s. A number, or an array that broadcasts against the
            features (one value per neuron). Differentiable if it is a JAX array.
        tau_w: Time constant of the adaptation, s, likewise.
        a: Strength of the sub-threshold adaptation, >= 0, per membrane unit.
        b: Strength of the adaptation by spikes, >= 0, in membrane units. Layers train a within
            (0, 1) and b within (0, 2), the published ranges. Training does not look at the
            condition for decay: where time constants are trained, too, dt must be short enough for
            a = 1 and the shortest of them.
        q: Scale of a and b, > 0.

    Raises:
        ValueError: A value is out of range, or the neuron does not decay: `a` is too large for the
            time constants.
        TypeError: A value has the wrong type.

    >>> import jax.numpy as jnp
    >>> neuron = AdLIF(tau_mem=15e-3, tau_w=200e-3, a=0.5, b=1.0, dt=1e-3)
    >>> impulse = jnp.zeros((300, 1, 1)).at[0].set(1.0)
    >>> from snnjax.dynamics import simulate
    >>> u = simulate(neuron, impulse, membrane=True).membrane[:, 0, 0]
    >>> int(u.argmax()), int(u.argmin())                # it swings back below zero
    (1, 20)
    """

    tau_w: Scalar = 150e-3
    a: Scalar = 0.5
    b: Scalar = 1.0
    q: Scalar = 120.0

    state_type = AdLIFState
    ranges: ClassVar[Mapping[str, Interval]] = {
        **LeakyIntegrateAndFire.ranges,
        "a": (0.0, 1.0),
        "b": (0.0, 2.0),
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        check_tau("tau_w", self.tau_w)
        _check.number("a", self.a, at_least=0)
        _check.number("b", self.b, at_least=0)
        _check.number("q", self.q, above=0)
        # of distributions, the ends at which the neuron decays most slowly
        low = lambda x: x.low if isinstance(x, Uniform) else x
        high = lambda x: x.high if isinstance(x, Uniform) else x
        slowest = {"tau_mem": low(self.tau_mem), "tau_w": low(self.tau_w)}
        slowest |= {"a": high(self.a), "q": high(self.q)}
        loop = _check.concrete(self.with_parameters(**slowest)._loop())
        if loop is not None and (loop >= 1).any():
            raise ValueError(
                "a must be small enough that the neuron decays without input: q a "
                "tanh(dt / (2 tau_mem)) tanh(dt / (2 tau_w)) < 1, got "
                f"{loop.max():.3g}; divide a by more than that, or use longer time constants or a "
                "shorter dt"
            )

    def step(self, state: AdLIFState, drive: jax.Array) -> tuple[AdLIFState, jax.Array]:
        """Return the next state and the spikes z[t]."""
        u, w = state
        z = self.spike(u - self.theta)
        lm, lw = (_time.decay(self.dt, tau) for tau in (self.tau_mem, self.tau_w))
        v = self.reset_where(z, u, self.theta)
        w_next = lw * w + (1 - lw) * self.q * (self.a * v + self.b * z)
        u_next = lm * v + (1 - lm) * (drive - w_next)
        return AdLIFState(u_next.astype(u.dtype), w_next.astype(w.dtype)), z

    @property
    def kernel(self) -> PSP:
        """The post-synaptic potential below the threshold, in closed form."""
        if type(self).step is not AdLIF.step:
            return super().kernel
        xm, xw, coupling, xp = self._rates()
        lw, membrane = xp.exp(-xw), xp.tanh(xm / 2)
        # 1 - exp(-x) through expm1: no digits are lost if dt is much shorter than tau.
        memory = 2 * lw * coupling / (1 + lw) * xp.expm1(-xm) / xp.expm1(-xm - xw)
        power = membrane * (1 + memory) / ((1 + coupling) * (1 - self._loop()))
        return Integrals(self.dt, self.dt / (1 + coupling), self.dt * power)

    def _loop(self) -> Scalar:
        """q a tanh(dt / (2 tau_mem)) tanh(dt / (2 tau_w)), below 1 if the neuron decays."""
        xm, xw, coupling, xp = self._rates()
        return coupling * xp.tanh(xm / 2) * xp.tanh(xw / 2)

    def _rates(self) -> tuple[Scalar, Scalar, Scalar, Any]:
        """dt/tau_mem, dt/tau_w, q a, and the library for them."""
        # 16 bits keep too few digits of 1 - exp(-dt/tau)
        wide = lambda x: _check.as_wide(x) if isinstance(x, jax.Array) else x
        tau_mem, tau_w, coupling = wide(self.tau_mem), wide(self.tau_w), wide(self.q * self.a)
        return self.dt / tau_mem, self.dt / tau_w, coupling, namespace(tau_mem, tau_w, coupling)
