r"""How a layer initializes all its connections together: `LayerInit(neuron, connections) -> initializers`.

A layer knows its neuron (tau_mem, tau_syn, dt, theta) and the fan-in of each connection; what is left to say is the target and the input's rate.
With recurrence the feed-forward connections carry alpha of the membrane's variance, equally shared, and the recurrent ones 1 - alpha.
Source: Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb, section 4.3.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from snnjax import _check
from snnjax.dale import fluctuation_driven_exponential, fluctuation_driven_lognormal
from snnjax.initializers import Initializer, fluctuation_driven_normal
from snnjax.psp import KernelMode


class Connection(NamedTuple):
    """One afferent of a layer: its fan-in `n`, whether it comes from the layer itself, and whether it is inhibitory (Dale's law)."""

    n: int
    recurrent: bool = False
    inhibitory: bool = False


LayerInit = Callable[[Any, Sequence[Connection]], Sequence[Initializer]]
"""`(neuron, connections) -> initializers`, one a connection."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class FluctuationDriven:
    """Put every neuron of the layer at mean `mu_u` and standard deviation `sigma_u` of the membrane.

    Attributes:
      nu: rate of the layer's inputs, Hz.   nu_recurrent: rate of its own neurons, Hz; `nu` when None.
      sigma_u, mu_u: targets, in membrane units (theta = 1); xi = (theta - mu_u) / sigma_u.
      alpha: fraction of the variance that feed-forward connections carry where there is recurrence.
      density: fraction of weights kept.   mode: kernel integrals, `"discrete"` or `"continuous"`.

    >>> from snnjax.dynamics import LIF
    >>> ff, rec = FluctuationDriven(nu=15.8)(LIF(), [Connection(700), Connection(128, recurrent=True)])
    >>> import jax
    >>> f"{ff(jax.random.key(0), (700, 128)).std():.3f} {rec(jax.random.key(1), (128, 128)).std():.3f}"
    '0.200 0.155'
    """

    nu: Any
    nu_recurrent: Any = None
    sigma_u: Any = 1.0
    mu_u: Any = 0.0
    alpha: Any = 0.9
    density: float = 1.0
    mode: KernelMode = "discrete"

    def __post_init__(self) -> None:
        _check.number("nu", self.nu, above=0, unit="Hz")
        if self.nu_recurrent is not None:
            _check.number("nu_recurrent", self.nu_recurrent, above=0, unit="Hz")
        _check.number("sigma_u", self.sigma_u, above=0)
        _check.number("mu_u", self.mu_u)
        _check.number("alpha", self.alpha, above=0, below=1)
        _check.number("density", self.density, above=0, at_most=1)

    def __call__(self, neuron: Any, connections: Sequence[Connection]) -> list[Initializer]:
        if not hasattr(neuron, "tau_syn"):
            raise TypeError(
                f"neuron must have one synaptic current, got {type(neuron).__name__}; Dalian layers need DalianFluctuationDriven"
            )
        theta = _check.concrete(neuron.theta)
        if theta is not None and (mu_u := _check.concrete(self.mu_u)) is not None and (mu_u >= theta).any():
            raise ValueError(f"mu_u must be below theta = {neuron.theta}, got {self.mu_u}")
        n_recurrent = sum(c.recurrent for c in connections)
        n_forward = len(connections) - n_recurrent
        nu_recurrent = self.nu if self.nu_recurrent is None else self.nu_recurrent
        rates = [nu_recurrent if c.recurrent else self.nu for c in connections]
        total_drive = sum(c.n * self.density * nu for c, nu in zip(connections, rates, strict=True))

        def share(c: Connection) -> Any:
            alpha = self.alpha if n_recurrent else 1.0
            return (1 - alpha) / n_recurrent if c.recurrent else alpha / n_forward

        return [
            fluctuation_driven_normal(
                self.mu_u,
                (neuron.theta - self.mu_u) / self.sigma_u,
                nu=nu,
                tau_mem=neuron.tau_mem,
                tau_syn=neuron.tau_syn,
                dt=neuron.dt,
                theta=neuron.theta,
                mode=self.mode,
                share=share(c),
                total_drive=total_drive,
                density=self.density,
            )
            for c, nu in zip(connections, rates, strict=True)
        ]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DalianFluctuationDriven:
    """Weights >= 0 that put every neuron of a Dalian layer at mean `mu_u` and standard deviation `sigma_u` of the membrane (`snnjax.dale`).

    Attributes:
      nu: rate of the layer's inputs, Hz.   nu_inh, nu_recurrent: of its own inhibitory and excitatory neurons, Hz; `nu` when None.
      sigma_u, mu_u: targets, in membrane units; mu_u below the neuron's theta.
      alpha: fraction of the excitatory variance that feed-forward connections carry where excitatory neurons are connected with each other.
      distribution: of the weights, `"exponential"` or `"lognormal"`.   cv: standard deviation of log-normal weights over their mean.
      mode: kernel integrals, `"discrete"` or `"continuous"`.

    >>> from snnjax.dynamics import ExcInhLIF
    >>> connections = [Connection(700), Connection(32, recurrent=True, inhibitory=True)]
    >>> ff, inh = DalianFluctuationDriven(nu=15.8)(ExcInhLIF(), connections)
    >>> import jax
    >>> f"{ff(jax.random.key(0), (700, 160)).mean():.3f} {inh(jax.random.key(1), (32, 160)).mean():.2f}"
    '0.036 0.40'
    """

    nu: Any
    nu_inh: Any = None
    nu_recurrent: Any = None
    sigma_u: Any = 1.0
    mu_u: Any = 0.0
    alpha: Any = 0.9
    distribution: Literal["exponential", "lognormal"] = "exponential"
    cv: Any = 1.0
    mode: KernelMode = "discrete"

    def __post_init__(self) -> None:
        for name in ("nu", "nu_inh", "nu_recurrent"):
            if name == "nu" or getattr(self, name) is not None:
                _check.number(name, getattr(self, name), above=0, unit="Hz")
        _check.number("sigma_u", self.sigma_u, above=0)
        _check.number("mu_u", self.mu_u)
        _check.number("alpha", self.alpha, above=0, below=1)
        _check.one_of("distribution", self.distribution, ("exponential", "lognormal"))
        _check.number("cv", self.cv, at_least=0)

    def __call__(self, neuron: Any, connections: Sequence[Connection]) -> list[Initializer]:
        role = lambda c: "inh" if c.inhibitory else "rec" if c.recurrent else "exc"  # noqa: E731
        n = {role(c): c.n for c in connections}
        if len(n) != len(connections) or not {"exc", "inh"} <= n.keys():
            raise ValueError(f"connections must be one feed-forward, one inhibitory and at most one recurrent, got {list(connections)}")
        if not hasattr(neuron, "tau_inh"):
            raise TypeError(f"neuron must have the currents tau_exc and tau_inh, got {type(neuron).__name__}")
        if (theta := _check.concrete(neuron.theta)) is not None:
            _check.number("mu_u", self.mu_u, below=float(theta.min()))
        draw: Any = fluctuation_driven_exponential
        if self.distribution == "lognormal":
            draw = functools.partial(fluctuation_driven_lognormal, cv=self.cv)
        initializers = draw(
            self.sigma_u, mu_u=self.mu_u, n_exc=n["exc"], n_inh=n["inh"], n_rec=n.get("rec", 0), nu_exc=self.nu, nu_inh=self.nu_inh,
            nu_rec=self.nu_recurrent, alpha=self.alpha, tau_mem=neuron.tau_mem, tau_exc=neuron.tau_exc, tau_inh=neuron.tau_inh, dt=neuron.dt,
            mode=self.mode,
        )  # fmt: skip
        return [getattr(initializers, role(c)) for c in connections]


def as_layer_init(init: LayerInit | Initializer) -> LayerInit:
    """`init` itself, or a plain initializer `(key, shape, dtype)`, told by the name of its first argument, for every connection.

    >>> from snnjax.initializers import kaiming_normal
    >>> type(as_layer_init(kaiming_normal())).__name__
    'SameForAll'
    """
    if not callable(init):
        raise TypeError(f"init must be a LayerInit such as FluctuationDriven(nu=...) or an initializer (key, shape, dtype), got {init!r}")
    first = next(iter(inspect.signature(init).parameters), None)
    return SameForAll(init) if first in ("key", "rng") else init  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class SameForAll:
    """The same initializer for every connection, whatever its role: for Kaiming, LeCun and the like.

    >>> from snnjax.initializers import kaiming_normal
    >>> from snnjax.dynamics import LIF
    >>> len(SameForAll(kaiming_normal())(LIF(), [Connection(20), Connection(128, recurrent=True)]))
    2
    """

    initializer: Initializer

    def __call__(self, neuron: Any, connections: Sequence[Connection]) -> list[Initializer]:
        return [self.initializer] * len(connections)
