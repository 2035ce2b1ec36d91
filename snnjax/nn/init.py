r"""How a layer initializes all its connections together: `LayerInit(neuron, connections) -> initializers`.

A layer knows its neuron (tau_mem, tau_syn, dt, theta) and the fan-in of each connection; what is left to say is the target and the input's rate.
With recurrence the feed-forward connections carry alpha of the membrane's variance, equally shared, and the recurrent ones 1 - alpha.
Source: Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb, section 4.3.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from snnjax import _check
from snnjax.initializers import Initializer, fluctuation_driven_normal
from snnjax.psp import KernelMode


class Connection(NamedTuple):
    """One afferent of a layer: its fan-in `n` and whether it comes from the layer itself."""

    n: int
    recurrent: bool = False


LayerInit = Callable[[Any, Sequence[Connection]], Sequence[Initializer]]


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
