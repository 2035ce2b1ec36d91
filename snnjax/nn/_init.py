r"""Initialization of all connections of a layer: `LayerInit(neuron, connections) -> initializers`.

The layer provides its neuron (the kernel and theta) and the fan-in of each connection. The user
specifies only the target and the rate of the input. With recurrence, the feed-forward connections
carry the fraction alpha of the variance of the membrane, in equal shares, and the recurrent
connections carry 1 - alpha. Source: Rossbroich, Gygax & Zenke (2022), doi
10.1088/2634-4386/ac97bb, section 4.3.
"""

from __future__ import annotations

import abc
import dataclasses
import functools
import inspect
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from snnjax import _check
from snnjax._check import Scalar
from snnjax.dale import fluctuation_driven_dalian
from snnjax.dynamics import Neuron
from snnjax.initializers import Initializer, check_rates, fluctuation_driven_normal, mean_rate
from snnjax.psp import PSP, ExcInhKernels
from snnjax.theory import Afferent


class ConnectionSize(NamedTuple):
    """One connection to a layer.

    Attributes:
        n: Fan-in of a neuron.
        recurrent: Whether the connection comes from the layer itself.
        inhibitory: Whether it is inhibitory (Dale's law).
        channels: Number of presynaptic channels: `n` divided by the kernel's positions. None means
            `n`.
        density: Fraction of the weights that the layer's map uses.
    """

    n: int
    recurrent: bool = False
    inhibitory: bool = False
    channels: int | None = None
    density: float = 1.0

    def mean_rate(self, name: str, nu: Scalar) -> Scalar:
        """Return the mean of the rates of the inputs.

        Args:
            name: Name of the argument, for errors.
            nu: Rates, Hz, one number or one per channel.

        Returns:
            The mean rate, Hz.
        """
        return mean_rate(name, nu, self.n if self.channels is None else self.channels)


class LayerInit(abc.ABC):
    """An initialization of all connections of a layer together.

    This is the base class of `FluctuationDriven` and similar rules. For your own rule that needs
    the neuron or several connections at once, derive a class from it. Any other callable `init` of
    a layer is an initializer `(key, shape, dtype) -> weights`.

    >>> from snnjax.initializers import kaiming_normal
    >>> class WeakRecurrence(LayerInit):
    ...     def __call__(self, neuron, connections):
    ...         return [kaiming_normal(0.1 if c.recurrent else 1.0) for c in connections]
    >>> from flax import nnx
    >>> from snnjax.nn import SpikingDense
    >>> layer = SpikingDense(100, 100, init=WeakRecurrence(), recurrent=True, rngs=nnx.Rngs(0))
    >>> f"{layer.kernel[...].std():.2f} {layer.recurrent_kernel[...].std():.2f}"
    '0.10 0.01'
    """

    @abc.abstractmethod
    def __call__(
        self, neuron: Neuron, connections: Sequence[ConnectionSize]
    ) -> Sequence[Initializer]:
        """Return one initializer per connection.

        Args:
            neuron: The layer's neuron model.
            connections: The layer's connections, the feed-forward one first.

        Returns:
            An initializer for each connection, in their order.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class MembraneTarget(LayerInit):
    """Weights that give every membrane a mean and a standard deviation.

    `FluctuationDriven` and `DalianFluctuationDriven` describe the attributes.
    """

    nu: Scalar
    nu_recurrent: Scalar | None = None
    sigma_u: Scalar = 1.0
    mu_u: Scalar = 0.0
    alpha: Scalar = 0.9

    def __post_init__(self) -> None:
        check_rates("nu", self.nu)
        if self.nu_recurrent is not None:
            check_rates("nu_recurrent", self.nu_recurrent)
        _check.number("sigma_u", self.sigma_u, above=0)
        _check.number("mu_u", self.mu_u)
        _check.number("alpha", self.alpha, above=0, below=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FluctuationDriven(MembraneTarget):
    """Weights that give every membrane the mean `mu_u` and the standard deviation `sigma_u`.

    Attributes:
        nu: Rate of the inputs of the layer, Hz: one number, or one per input (for a convolution,
            per channel).
        nu_recurrent: Rate of the layer's own neurons, Hz, in the same form. None: the mean of `nu`.
        sigma_u: Target standard deviation, in membrane units (theta = 1). The paper's xi is
            (theta - mu_u) / sigma_u.
        mu_u: Target mean, in membrane units, below theta.
        alpha: Share of the variance that feed-forward connections carry if there is recurrence.
        density: Fraction of the weights that are not zero.
        kernel: Post-synaptic potential for which the weights are computed. None: that of the
            neuron, `snnjax.dynamics.Neuron.kernel`, which exists for all neurons that are linear
            below their threshold.

    >>> from snnjax.dynamics import LIF
    >>> connections = [ConnectionSize(700), ConnectionSize(128, recurrent=True)]
    >>> ff, rec = FluctuationDriven(nu=15.8)(LIF(), connections)
    >>> import jax
    >>> ff, rec = ff(jax.random.key(0), (700, 128)), rec(jax.random.key(1), (128, 128))
    >>> f"{ff.std():.3f} {rec.std():.3f}"
    '0.200 0.155'
    """

    density: float = 1.0
    kernel: PSP | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _check.number("density", self.density, above=0, at_most=1)

    def __call__(self, neuron: Neuron, connections: Sequence[ConnectionSize]) -> list[Initializer]:
        n_recurrent = sum(c.recurrent for c in connections)
        n_forward = len(connections) - n_recurrent
        own = mean_rate("nu", self.nu) if self.nu_recurrent is None else self.nu_recurrent
        named = {True: ("nu_recurrent", own), False: ("nu", self.nu)}
        rates = [c.mean_rate(*named[c.recurrent]) for c in connections]
        # inputs whose weights the map does not use are like silent ones
        rates = [nu * c.density for c, nu in zip(connections, rates, strict=True)]
        try:
            theta = neuron.theta
        except AttributeError:
            got = type(neuron).__name__
            needed = "neuron must be a spiking neuron with a threshold theta for FluctuationDriven"
            raise TypeError(f"{needed}, got {got}; for other neurons use SameForAll(...)") from None
        drives = (c.n * self.density * nu for c, nu in zip(connections, rates, strict=True))
        normal = functools.partial(
            fluctuation_driven_normal,
            self.mu_u,
            self.sigma_u,
            kernel=neuron.kernel if self.kernel is None else self.kernel,
            theta=theta,
            density=self.density,
            total_drive=sum(drives),
        )

        def share(c: ConnectionSize) -> Scalar:
            alpha = self.alpha if n_recurrent else 1.0
            return (1 - alpha) / n_recurrent if c.recurrent else alpha / n_forward

        pairs = zip(connections, rates, strict=True)
        return [normal(nu=nu, share=share(c)) for c, nu in pairs]


@dataclasses.dataclass(frozen=True, kw_only=True)
class DalianFluctuationDriven(MembraneTarget):
    """Weights >= 0 that give the membranes of a Dalian layer `mu_u` and `sigma_u`.

    `snnjax.dale` gives the formulas.

    Attributes:
        nu: Rate of the inputs of the layer, Hz: one number, or one per input (for a convolution,
            per channel).
        nu_inh: Rate of the layer's own inhibitory neurons, Hz, in the same form. None: the mean of
            `nu`.
        nu_recurrent: Rate of the layer's own excitatory neurons, Hz, in the same form. None: the
            mean of `nu`.
        sigma_u: Target standard deviation, in membrane units.
        mu_u: Target mean, in membrane units, below theta.
        alpha: Share of the excitatory variance that feed-forward connections carry if there are
            recurrent excitatory connections.
        cv: Standard deviation of log-normal weights over their mean. None: exponential weights.
        kernels: Post-synaptic potentials for which the weights are computed. None: those of the
            neuron.

    >>> from snnjax.dynamics import ExcInhLIF
    >>> connections = [ConnectionSize(700), ConnectionSize(32, recurrent=True, inhibitory=True)]
    >>> ff, inh = DalianFluctuationDriven(nu=15.8)(ExcInhLIF(), connections)
    >>> import jax
    >>> ff, inh = ff(jax.random.key(0), (700, 160)), inh(jax.random.key(1), (32, 160))
    >>> f"{ff.mean():.3f} {inh.mean():.2f}"
    '0.036 0.40'
    """

    nu_inh: Scalar | None = None
    cv: Scalar | None = None
    kernels: ExcInhKernels | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.nu_inh is not None:
            check_rates("nu_inh", self.nu_inh)
        if self.cv is not None:
            _check.number("cv", self.cv, at_least=0)

    def __call__(self, neuron: Neuron, connections: Sequence[ConnectionSize]) -> list[Initializer]:
        role_of = lambda c: "inh" if c.inhibitory else "rec" if c.recurrent else "exc"
        by_role = {role_of(c): c for c in connections}
        if len(by_role) != len(connections) or not {"exc", "inh"} <= by_role.keys():
            needed = "one feed-forward, one inhibitory and at most one recurrent"
            raise ValueError(f"connections must be {needed}, got {list(connections)}")
        if (theta := _check.concrete(neuron.theta)) is not None:
            _check.number("mu_u", self.mu_u, below=float(theta.min()))
        mean = mean_rate("nu", self.nu)
        names = {"exc": "nu", "inh": "nu_inh", "rec": "nu_recurrent"}
        afferents: dict[str, Afferent] = {}
        for role, c in by_role.items():
            nu: Scalar | None = getattr(self, names[role])
            rate = mean if nu is None else c.mean_rate(names[role], nu)
            afferents[role] = Afferent(c.n, rate)
        initializers = fluctuation_driven_dalian(
            self.sigma_u,
            exc=afferents["exc"],
            inh=afferents["inh"],
            rec=afferents.get("rec"),
            kernels=neuron.kernels if self.kernels is None else self.kernels,
            mu_u=self.mu_u,
            alpha=self.alpha,
            cv=self.cv,
        )
        return [getattr(initializers, role_of(c)) for c in connections]


def as_layer_init(init: LayerInit | Initializer) -> LayerInit:
    """Return `init`, or a `LayerInit` that uses a plain initializer for every connection.

    Args:
        init: The argument `init` of a layer.

    Returns:
        The `LayerInit`.

    Raises:
        TypeError: It is neither a `LayerInit` nor a callable that takes `(key, shape, dtype)`.

    >>> from snnjax.initializers import kaiming_normal
    >>> type(as_layer_init(kaiming_normal())).__name__
    'SameForAll'
    """
    if isinstance(init, LayerInit):
        return init
    name = getattr(init, "__name__", repr(init))
    kinds = "a LayerInit such as FluctuationDriven(nu=15.8) or an initializer"
    needed = f"init must be {kinds} (key, shape, dtype) -> weights"
    if isinstance(init, type):
        raise TypeError(f"{needed}, got the class {name} itself; call it, {name}(...)")
    if not callable(init):
        raise TypeError(f"{needed}, got {init!r}")
    try:
        inspect.signature(init).bind(None, (1, 1), jnp.float32)
    except TypeError:
        raise TypeError(
            f"{needed}, got {name}{inspect.signature(init)}; a rule that needs the neuron and the "
            "connections must derive from snnjax.nn.LayerInit, and a function that returns an "
            "initializer must be called"
        ) from None
    except ValueError:  # Python cannot inspect the callable's signature
        pass
    return SameForAll(init)


def draw_weights(
    draw: Initializer,
    key: jax.Array,
    shape: tuple[int, ...],
    dtype: DTypeLike,
) -> jax.Array:
    """Draw the weights of a layer with an initializer, in at least float32.

    Args:
        draw: The initializer.
        key: A random key.
        shape: Shape of the weights, (..., in, out).
        dtype: Data type of the weights.

    Returns:
        The weights, (..., in, out).

    Raises:
        ValueError: The initializer returns another shape.
        TypeError: The initializer does not return real numbers.
    """
    weights = draw(key, shape, _check.wide(dtype))
    if jnp.shape(weights) != shape:
        hint = " Weights (out, in), as in PyTorch and Equinox, must be transposed."
        raise ValueError(
            f"init must return weights of the shape {shape} of its argument, (..., in, out), "
            f"got {jnp.shape(weights)}.{hint if jnp.shape(weights) == shape[::-1] else ''}"
        )
    if not jnp.issubdtype(jnp.result_type(weights), jnp.floating):
        got = jnp.result_type(weights)
        raise TypeError(f"init must return floating-point weights, got {got}")
    return jnp.asarray(weights, dtype)


@dataclasses.dataclass(frozen=True)
class SameForAll(LayerInit):
    """The same initializer for every connection, for Kaiming, LeCun and the like.

    Attributes:
        initializer: `(key, shape, dtype) -> weights`.

    >>> from snnjax.initializers import kaiming_normal
    >>> from snnjax.dynamics import LIF
    >>> connections = [ConnectionSize(20), ConnectionSize(128, recurrent=True)]
    >>> len(SameForAll(kaiming_normal())(LIF(), connections))
    2
    """

    initializer: Initializer

    def __call__(self, neuron: Neuron, connections: Sequence[ConnectionSize]) -> list[Initializer]:
        return [self.initializer] * len(connections)
