r"""Weight initializers `(key, shape, dtype) -> Array`, as in `jax.nn.initializers`.

They fit `flax.nnx.Linear`, `flax.linen.Dense` and plain JAX.

Fluctuation-driven: the weights of a connection with fan-in n and presynaptic rate nu (Hz) are
normal with the mean and standard deviation that put the membrane of the target neurons at mean mu_u
and standard deviation sigma_u. The formulas are in `snnjax.theory`; the paper states the target as
xi = (theta - mu_u) / sigma_u. If a fraction `density` of the weights is kept, n is the expected
number of connections, density * fan-in, and the other weights are 0.

The fan-in comes from the shape. Axes are named as in `jax.nn.initializers.variance_scaling`:
`in_axis` and `out_axis` are the channel axes. All other axes are kernel positions and count towards
the fan-in, so a convolution kernel (..., in, out) needs no option.

Source: Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from snnjax import _check
from snnjax._check import Scalar
from snnjax._random import draw
from snnjax.psp import PSP, Kernel
from snnjax.surrogate import SpikeFunction, superspike
from snnjax.theory import Afferent, check_target, connection_weights

__all__ = [
    "fluctuation_driven_normal",
    "fluctuation_driven_centered",
    "normal",
    "kaiming_normal",
    "micheli_normal",
    "ikun_normal",
]

Axes = int | Sequence[int]


class Initializer(Protocol):
    """`(key, shape, dtype) -> Array`."""

    def __call__(
        self, key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32
    ) -> jax.Array: ...


def fan_in(shape: Sequence[int], *, in_axis: Axes = -2, out_axis: Axes = -1) -> int:
    """Return the number of inputs of one output unit.

    Args:
        shape: Shape of the weights.
        in_axis: Input channel axes.
        out_axis: Output channel axes.

    Returns:
        The product of all axes of `shape` but `out_axis`.

    Raises:
        ValueError: The shape does not have these axes, they overlap, or there is no input.

    >>> fan_in((700, 128)), fan_in((3, 3, 16, 32))
    (700, 144)
    """
    shape = tuple(shape)
    axes = (*_axes(in_axis), *_axes(out_axis))
    if len(shape) < 2 or any(not -len(shape) <= a < len(shape) for a in axes):
        needed = f"the axes in_axis={in_axis} and out_axis={out_axis} and so at least 2 of them"
        raise ValueError(f"shape must have {needed}, got {shape}")
    outs = {a % len(shape) for a in _axes(out_axis)}
    if outs & {a % len(shape) for a in _axes(in_axis)}:
        got = f"{in_axis} and {out_axis} for shape {shape}"
        raise ValueError(f"in_axis and out_axis must be different axes, got {got}")
    n = math.prod(size for a, size in enumerate(shape) if a not in outs)
    if n == 0:
        raise ValueError(f"shape must have at least one input, got {shape}")
    return n


def in_float32(draw: Callable[[jax.Array, Sequence[int], DTypeLike], jax.Array]) -> Initializer:
    """Return an initializer that draws in at least float32 and then rounds to the requested type.

    Random numbers drawn in 16 bits are not centred and have no tail: the mean of bfloat16 normal
    numbers is off by hundreds of standard errors.

    Args:
        draw: The initializer, `(key, shape, dtype) -> weights`.

    >>> init = in_float32(lambda key, shape, dtype: jax.random.normal(key, shape, dtype))
    >>> w = init(jax.random.key(0), (1000, 1000), jnp.bfloat16)
    >>> w.dtype, bool(abs(w.astype(jnp.float32).mean()) < 4e-3)
    (dtype(bfloat16), True)
    """

    def init(key: jax.Array, shape: Sequence[int], dtype: DTypeLike = jnp.float32) -> jax.Array:
        if isinstance(key, Sequence):
            raise TypeError(
                f"key must be a JAX random key, got {key!r}; an initializer is called with (key, "
                "shape, dtype). For Haiku, which calls it with (shape, dtype): "
                "lambda shape, dtype: init(hk.next_rng_key(), shape, dtype)"
            )
        return draw(key, tuple(shape), _check.wide(dtype)).astype(dtype)

    return init


def check_rates(name: str, nu: Scalar) -> None:
    """Raise unless `nu` (Hz) is one positive number, or an array with one per input."""
    _check.number(name, nu, above=0, unit="Hz")
    if jnp.ndim(nu) > 1:
        got = jnp.shape(nu)
        raise ValueError(f"{name} must be one rate, or one for each input, got shape {got}")


def mean_rate(name: str, nu: Scalar, inputs: int | None = None) -> Scalar:
    """Return the mean rate of the inputs.

    The formulas need nothing else: they contain sum_j nu_j = n mean(nu).

    Args:
        name: Name of the argument, for errors.
        nu: Rates, Hz: one number, or an array with one per input.
        inputs: Number of inputs. None: not checked.

    Raises:
        ValueError: A rate is not positive, or their number is not that of the inputs.

    >>> float(mean_rate("nu", jnp.array([5.0, 15.0]), 2)), mean_rate("nu", 5.0, 2)
    (10.0, 5.0)
    """
    check_rates(name, nu)
    if isinstance(nu, float | int) or nu.ndim == 0:
        return nu
    if inputs is not None and jnp.shape(nu) != (inputs,):
        needed = f"one rate, or one for each of the {inputs} inputs (of a convolution: channels)"
        raise ValueError(f"{name} must be {needed}, got {jnp.size(nu)} rates")
    return nu.mean()


def _axes(axis: Axes) -> tuple[int, ...]:
    return (axis,) if isinstance(axis, int) else tuple(axis)


def _centered(deviation: Callable[[Sequence[int]], Scalar]) -> Initializer:
    """Return an initializer that draws from Normal(0, deviation(shape))."""

    @in_float32
    def init(key: jax.Array, shape: Sequence[int], dtype: DTypeLike) -> jax.Array:
        return jnp.asarray(deviation(shape), dtype) * draw(jax.random.normal, key, shape, dtype)

    return init


def per_neuron(name: str, value: Scalar, shape: Sequence[int], out_axis: Axes = -1) -> Scalar:
    """Reshape one number per neuron so that it broadcasts against weights.

    Args:
        name: Name of the argument, for errors.
        value: A number, or an array (neurons,).
        shape: Shape of the weights.
        out_axis: Its axes that count the neurons.

    Raises:
        ValueError: The number of values is not that of the neurons.
    """
    if jnp.ndim(value) == 0:
        return value
    outs = {a % len(shape) for a in _axes(out_axis)}
    across = tuple(size if a in outs else 1 for a, size in enumerate(shape))
    if jnp.shape(value) != (math.prod(across),):
        needed = f"one number, or one for each of {math.prod(across)} neurons"
        raise ValueError(f"{name} must be {needed}, got shape {jnp.shape(value)}")
    return jnp.reshape(value, across)


def fluctuation_driven_normal(
    mu_u: Scalar = 0.0,
    sigma_u: Scalar = 1.0,
    *,
    nu: Scalar,
    kernel: PSP = Kernel(),
    theta: Scalar = 1.0,
    share: Scalar = 1.0,
    total_drive: Scalar | None = None,
    density: float = 1.0,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
) -> Initializer:
    """Return an initializer of normal weights that put the membrane at `mu_u` and `sigma_u`.

    The targets, theta and the kernel may have one value per neuron (the size of `out_axis`).

    Args:
        mu_u: Mean of the membrane, below theta.
        sigma_u: Its standard deviation over time, > 0. The paper's xi is (theta - mu_u) / sigma_u;
            1 to 3 is the fluctuation-driven regime.
        nu: Rate of the presynaptic units, Hz: one number, or one per input (the size of `in_axis`).
        kernel: Post-synaptic potential of the target neurons, for example `LIF().kernel`.
        theta: Firing threshold. Only the check of mu_u uses it.
        share: Fraction of sigma_u^2 that this connection carries: alpha for the feed-forward one of
            a recurrent layer, 1 - alpha for the recurrent one.
        total_drive: Sum of n nu (Hz) over all connections of the target neurons, if there are
            several, so that their means add up to mu_u.
        density: Fraction of the weights that are kept, in (0, 1].
        in_axis: Input channel axes. Equinox and PyTorch store dense weights as (out, in):
            `in_axis=-1, out_axis=-2`.
        out_axis: Output channel axes.

    Raises:
        ValueError: An option is out of range (at once), or no such weights exist for the fan-in
            (when called; names the allowed mu_u). Traced options are not checked.

    >>> import jax
    >>> w = fluctuation_driven_normal(0.0, 1.0, nu=15.8)(jax.random.key(0), (700, 128))
    >>> w.shape, f"{w.std():.3f}"
    ((700, 128), '0.211')
    """
    check_rates("nu", nu)
    _check.number("share", share, above=0, at_most=1)
    _check.number("density", density, above=0, at_most=1)
    check_target(mu_u, sigma_u, theta)

    @in_float32
    def init(key: jax.Array, shape: Sequence[int], dtype: DTypeLike) -> jax.Array:
        n = fan_in(shape, in_axis=in_axis, out_axis=out_axis)
        rate = mean_rate("nu", nu, math.prod(shape[a] for a in _axes(in_axis)))
        afferent = Afferent(n * density, rate, share)
        options: Any = {"theta": theta, "total_drive": total_drive}
        weights = connection_weights(mu_u, sigma_u, afferent, kernel, **options)
        name = "mu_u, sigma_u and the time constants of the kernel"
        fitted = (per_neuron(name, value, shape, out_axis) for value in weights)
        mu_w, sigma_w = (jnp.asarray(value, dtype) for value in fitted)
        w = mu_w + sigma_w * draw(jax.random.normal, key, shape, dtype)
        if density < 1:
            w = jnp.where(jax.random.bernoulli(jax.random.fold_in(key, 1), density, shape), w, 0)
        return w

    return init


def fluctuation_driven_centered(
    sigma_u: Scalar = 1.0,
    *,
    nu: Scalar,
    tau_mem: Scalar = 20e-3,
    tau_syn: Scalar = 10e-3,
    dt: Scalar = 2e-3,
    **options: Any,
) -> Initializer:
    """Return `fluctuation_driven_normal` at mu_u = 0 for LIF neurons, from plain numbers.

    sigma_w = sigma_u sqrt(share / (n nu ehat)), with ehat of `snnjax.psp.Kernel`.

    Args:
        sigma_u: Standard deviation of the membrane over time, > 0.
        nu: Rate of the presynaptic units, Hz: one number, or one per input.
        tau_mem: Membrane time constant, s.
        tau_syn: Synaptic time constant, s.
        dt: Time step, s.
        **options: Further options of `fluctuation_driven_normal`.

    >>> import jax
    >>> w = fluctuation_driven_centered(1.0, nu=5.0)(jax.random.key(0), (20, 128))
    >>> f"{w.std():.2f}"
    '2.23'
    """
    kernel = Kernel(tau_mem=tau_mem, tau_syn=tau_syn, dt=dt)
    return fluctuation_driven_normal(0.0, sigma_u, nu=nu, kernel=kernel, **options)


def kaiming_normal(
    gain: Scalar = 1.0, *, power: float = 0.5, in_axis: Axes = -2, out_axis: Axes = -1
) -> Initializer:
    """Return an initializer that draws from Normal(0, gain / k^power) with k the fan-in.

    Args:
        gain: Factor, > 0. 1 is the baseline of the paper. sqrt(2) is the factor of He et al.
            (2015), arXiv 1502.01852, for ReLU.
        power: 0.5 gives 1/sqrt(k), as in the paper's readout, and 1 gives 1/k.
        in_axis: Input channel axes.
        out_axis: Output channel axes.

    >>> import jax
    >>> f"{kaiming_normal()(jax.random.key(0), (100, 100)).std():.2f}"
    '0.10'
    """
    _check.number("gain", gain, above=0)
    _check.number("power", power, at_least=0)
    return _centered(
        lambda shape: gain / fan_in(shape, in_axis=in_axis, out_axis=out_axis) ** power
    )


def normal(mu_w: Scalar = 0.0, sigma_w: Scalar = 1.0) -> Initializer:
    """Return an initializer that draws from Normal(mu_w, sigma_w), for any shape.

    It is for studies over the weights themselves. `jax.nn.initializers.normal` has no mean.

    Args:
        mu_w: Mean.
        sigma_w: Standard deviation, >= 0.

    >>> import jax
    >>> weights = normal(-0.5, 2.0)(jax.random.key(0), (100, 100))
    >>> f"{weights.mean():.1f} {weights.std():.1f}"
    '-0.5 2.0'
    """
    _check.number("mu_w", mu_w)
    _check.number("sigma_w", sigma_w, at_least=0)

    @in_float32
    def init(key: jax.Array, shape: Sequence[int], dtype: DTypeLike) -> jax.Array:
        mean, deviation = jnp.asarray(mu_w, dtype), jnp.asarray(sigma_w, dtype)
        return mean + deviation * draw(jax.random.normal, key, shape, dtype)

    return init


def micheli_normal(
    *, nu: Scalar, dt: Scalar, in_axis: Axes = -2, out_axis: Axes = -1
) -> Initializer:
    """Return an initializer that draws from Normal(0, 1 / sqrt(fan-in P)).

    P = nu dt is the probability of an input spike in a step. This preserves the variance of the
    input of a step from layer to layer. It ignores the membrane and the synapse (no leak, no memory
    across steps) and the threshold. So it depends on dt, and `fluctuation_driven_normal` does not.
    The two agree if ehat happens to equal dt, as it nearly does for 20 and 10 ms at dt = 2 ms.
    Source: Micheli et al. (2024), arXiv 2410.00580.

    Args:
        nu: Rate of the inputs, Hz, one number or one per input; nu dt <= 1.
        dt: Time step, s.
        in_axis: Input channel axes.
        out_axis: Output channel axes.

    >>> import jax
    >>> f"{micheli_normal(nu=15.8, dt=2e-3)(jax.random.key(0), (700, 128)).std():.2f}"
    '0.21'
    """
    check_rates("nu", nu)
    _check.number("dt", dt, above=0, unit="s")
    _check.number("nu dt", nu * dt, at_most=1)

    def deviation(shape: Sequence[int]) -> Scalar:
        rate = mean_rate("nu", nu, math.prod(shape[a] for a in _axes(in_axis)))
        return (rate * dt) ** -0.5 / fan_in(shape, in_axis=in_axis, out_axis=out_axis) ** 0.5

    return _centered(deviation)


def ikun_normal(
    *,
    spike: SpikeFunction | None = None,
    variant: Literal["v1", "v2"] = "v1",
    in_axis: Axes = -2,
    out_axis: Axes = -1,
) -> Initializer:
    """Return the initializer IKUN, which draws from Normal(0, sqrt(b / fan)).

    1 / b is the mean of the surrogate derivative over -1 <= v <= 1. For SuperSpike at beta = 20 the
    mean is 1/21 and b = 21. IKUN compensates for the factor by which the surrogate shrinks a
    gradient. It ignores the rate of the input, the membrane, the synapse, the threshold and the
    time step, so the membrane may end up anywhere. Source: Chang, Wang & Yang (2024), arXiv
    2411.18250, as in the authors' published code (MaeChd/SurrogateVarStabe).

    Args:
        spike: Spike function of the layer. None: `superspike(20.0)`.
        variant: `"v1"`: fan is the fan-in. `"v2"`: it is the fan-in plus the fan-out.
        in_axis: Input channel axes.
        out_axis: Output channel axes.

    >>> import jax
    >>> f"{ikun_normal()(jax.random.key(0), (700, 128)).std():.3f} {(21 / 700) ** 0.5:.3f}"
    '0.173 0.173'
    """
    _check.one_of("variant", variant, ("v1", "v2"))
    spike = superspike(20.0) if spike is None else spike
    if not isinstance(spike, SpikeFunction):
        raise TypeError(f"spike must be a snnjax.surrogate.SpikeFunction, got {spike!r}")

    def deviation(shape: Sequence[int]) -> jax.Array:
        n = fan_in(shape, in_axis=in_axis, out_axis=out_axis)
        if variant == "v2":
            n += fan_in(shape, in_axis=out_axis, out_axis=in_axis)
        # Midpoints of a grid that is fine compared with the narrowest surrogate in use. Their
        # number is even, so that a cusp at 0 is on an edge.
        grid = (jnp.arange(20_000) + 0.5) / 10_000 - 1
        return jnp.sqrt(1 / spike.derivative(grid).mean() / n)

    return _centered(deviation)
