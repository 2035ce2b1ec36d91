r"""How a layer initializes all its connections together: `LayerInit(neuron, connections) -> initializers`.

A layer knows its neuron (tau_mem, tau_syn, dt, theta) and the fan-in of each connection; what is left to say is the target and the input's rate.
With recurrence the feed-forward connections carry alpha of the membrane's variance, equally shared, and the recurrent ones 1 - alpha.
Source: Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb, section 4.3.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import inspect
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from snnjax import _check
from snnjax.dale import fluctuation_driven_exponential, fluctuation_driven_lognormal
from snnjax.initializers import Initializer, check_rates, fluctuation_driven_normal, mean_rate
from snnjax.psp import KernelMode


class Connection(NamedTuple):
    """One afferent of a layer.

    Attributes:
      n: Fan-in of a neuron.
      recurrent: Whether the connection comes from the layer itself.
      inhibitory: Whether it is inhibitory (Dale's law).
      channels: Number of channels that it comes from: `n` divided by the kernel's positions. None stands for `n`.
    """

    n: int
    recurrent: bool = False
    inhibitory: bool = False
    channels: int | None = None

    def mean_rate(self, name: str, nu: Any) -> Any:
        """The mean of the rates `nu` (Hz) of the inputs, one number or one per channel; `name` is for errors."""
        return mean_rate(name, nu, self.n if self.channels is None else self.channels)


class LayerInit(abc.ABC):
    """How a layer draws the weights of all its connections together: the base class of `FluctuationDriven` and the like.

    Derive a class from it for a rule of your own that needs to know the neuron or several connections at once. Any other
    callable that a layer gets as `init` is taken as an initializer `(key, shape, dtype) -> weights`.

    >>> from snnjax.initializers import scaled_normal
    >>> class WeakRecurrence(LayerInit):
    ...     def __call__(self, neuron, connections):
    ...         return [scaled_normal(0.1 if c.recurrent else 1.0) for c in connections]
    >>> from flax import nnx
    >>> from snnjax.nn import SpikingDense
    >>> layer = SpikingDense(100, 100, init=WeakRecurrence(), recurrent=True, rngs=nnx.Rngs(0))
    >>> f"{layer.kernel[...].std():.2f} {layer.recurrent_kernel[...].std():.2f}"
    '0.10 0.01'
    """

    @abc.abstractmethod
    def __call__(self, neuron: Any, connections: Sequence[Connection]) -> Sequence[Initializer]:
        """One initializer per connection.

        Args:
          neuron: The layer's neuron model.
          connections: The layer's connections, the feed-forward one first.

        Returns:
          An initializer for each connection, in their order.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class FluctuationDriven(LayerInit):
    """Put every neuron of the layer at mean `mu_u` and standard deviation `sigma_u` of the membrane.

    Attributes:
      nu: rate of the layer's inputs, Hz: one number, or one rate for each input (for a convolution, each channel).
      nu_recurrent: rate of its own neurons, Hz, likewise; `nu` when None, the mean of its rates where there are several.
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
        check_rates("nu", self.nu)
        if self.nu_recurrent is not None:
            check_rates("nu_recurrent", self.nu_recurrent)
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
        own = mean_rate("nu", self.nu) if self.nu_recurrent is None else self.nu_recurrent
        rates = [c.mean_rate("nu_recurrent", own) if c.recurrent else c.mean_rate("nu", self.nu) for c in connections]
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
class DalianFluctuationDriven(LayerInit):
    """Weights >= 0 that put every neuron of a Dalian layer at mean `mu_u` and standard deviation `sigma_u` of the membrane (`snnjax.dale`).

    Attributes:
      nu: rate of the layer's inputs, Hz: one number, or one rate for each input (for a convolution, each channel).
      nu_inh, nu_recurrent: of its own inhibitory and excitatory neurons, Hz, likewise; `nu` when None, the mean of its rates where there are several.
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
                check_rates(name, getattr(self, name))
        _check.number("sigma_u", self.sigma_u, above=0)
        _check.number("mu_u", self.mu_u)
        _check.number("alpha", self.alpha, above=0, below=1)
        _check.one_of("distribution", self.distribution, ("exponential", "lognormal"))
        _check.number("cv", self.cv, at_least=0)

    def __call__(self, neuron: Any, connections: Sequence[Connection]) -> list[Initializer]:
        role = lambda c: "inh" if c.inhibitory else "rec" if c.recurrent else "exc"  # noqa: E731
        by_role = {role(c): c for c in connections}
        if len(by_role) != len(connections) or not {"exc", "inh"} <= by_role.keys():
            raise ValueError(f"connections must be one feed-forward, one inhibitory and at most one recurrent, got {list(connections)}")
        if not hasattr(neuron, "tau_inh"):
            raise TypeError(f"neuron must have the currents tau_exc and tau_inh, got {type(neuron).__name__}")
        if (theta := _check.concrete(neuron.theta)) is not None:
            _check.number("mu_u", self.mu_u, below=float(theta.min()))
        draw: Any = fluctuation_driven_exponential
        if self.distribution == "lognormal":
            draw = functools.partial(fluctuation_driven_lognormal, cv=self.cv)
        mean = mean_rate("nu", self.nu)
        rates = {"nu_exc": by_role["exc"].mean_rate("nu", self.nu), "nu_inh": mean, "nu_rec": mean}
        for name, field in (("inh", "nu_inh"), ("rec", "nu_recurrent")):
            if name in by_role and getattr(self, field) is not None:
                rates[f"nu_{name}"] = by_role[name].mean_rate(field, getattr(self, field))
        initializers = draw(
            self.sigma_u,
            mu_u=self.mu_u,
            **{f"n_{name}": c.n for name, c in by_role.items()},
            **rates,
            alpha=self.alpha,
            tau_mem=neuron.tau_mem,
            tau_exc=neuron.tau_exc,
            tau_inh=neuron.tau_inh,
            dt=neuron.dt,
            mode=self.mode,
        )
        return [getattr(initializers, role(c)) for c in connections]


def as_layer_init(init: LayerInit | Initializer) -> LayerInit:
    """`init` itself, or a plain initializer `(key, shape, dtype)` for every connection.

    Args:
      init: What a layer got.

    Raises:
      TypeError: It is neither a `LayerInit` nor a callable that takes `(key, shape, dtype)`.

    >>> from snnjax.initializers import kaiming_normal
    >>> type(as_layer_init(kaiming_normal())).__name__
    'SameForAll'
    """
    if isinstance(init, LayerInit):
        return init
    name = getattr(init, "__name__", repr(init))
    needed = "init must be a LayerInit such as FluctuationDriven(nu=15.8) or an initializer (key, shape, dtype) -> weights"
    if isinstance(init, type):
        raise TypeError(f"{needed}, got the class {name} itself; call it, {name}(...)")
    if not callable(init):
        raise TypeError(f"{needed}, got {init!r}")
    try:
        inspect.signature(init).bind(None, (1, 1), jnp.float32)
    except TypeError:
        raise TypeError(
            f"{needed}, got {name}{inspect.signature(init)}; derive a function of the neuron and the connections from "
            "snnjax.nn.LayerInit, and call a function that makes an initializer"
        ) from None
    except ValueError:  # a callable without a signature that Python knows
        pass
    return SameForAll(init)


def draw_weights(draw: Initializer, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Weights of a layer by an initializer, drawn in at least float32.

    Args:
      draw: The initializer.
      key: A random key.
      shape: The shape that the weights must have, (..., in, out).
      dtype: Their type.

    Raises:
      ValueError: The initializer returns another shape.
      TypeError: It does not return real numbers.
    """
    weights = draw(key, shape, _check.wide(dtype))
    if jnp.shape(weights) != shape:
        turned = " Weights (out, in), as PyTorch and Equinox have them, must be transposed." if jnp.shape(weights) == shape[::-1] else ""
        raise ValueError(
            f"init must return weights of the shape {shape} that it is asked for, (..., in, out), got {jnp.shape(weights)}.{turned}"
        )
    if not jnp.issubdtype(jnp.result_type(weights), jnp.floating):
        raise TypeError(f"init must return floating-point weights, got {jnp.result_type(weights)}")
    return jnp.asarray(weights, dtype)


@dataclasses.dataclass(frozen=True)
class SameForAll(LayerInit):
    """The same initializer for every connection, whatever its role: for Kaiming, LeCun and the like.

    >>> from snnjax.initializers import kaiming_normal
    >>> from snnjax.dynamics import LIF
    >>> len(SameForAll(kaiming_normal())(LIF(), [Connection(20), Connection(128, recurrent=True)]))
    2
    """

    initializer: Initializer

    def __call__(self, neuron: Any, connections: Sequence[Connection]) -> list[Initializer]:
        return [self.initializer] * len(connections)
