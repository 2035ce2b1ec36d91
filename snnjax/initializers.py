r"""Weight initializers `(key, shape, dtype) -> Array`, as in `jax.nn.initializers`: they fit `flax.nnx.Linear`, `flax.linen.Dense` and plain JAX.

Fluctuation-driven: the weights of a connection with fan-in n and presynaptic rate nu (Hz) are normal with the mean and standard deviation that put
the membrane of its target neurons at mean mu_u and standard deviation sigma_u = (theta - mu_u) / xi; formulas in `snnjax.theory`. With a fraction
`density` of the weights kept, n is the expected number of connections, density * fan-in, and the others are 0.

The fan-in comes from the shape. Axes are named as in `jax.nn.initializers.variance_scaling`: `in_axis` and `out_axis` are the channel axes,
all other axes are kernel positions and count towards the fan-in, so a convolution kernel (..., in, out) needs no option.

Source: Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol, get_args

import jax
import jax.numpy as jnp

from snnjax import _check
from snnjax.psp import KernelMode
from snnjax.surrogate import SpikeFunction, superspike
from snnjax.theory import Afferent, WeightStatistics, check_target, connection_weights

Axes = int | Sequence[int]


class Initializer(Protocol):
    """`(key, shape, dtype) -> Array`."""

    def __call__(self, key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array: ...


def fan_in(shape: Sequence[int], *, in_axis: Axes = -2, out_axis: Axes = -1) -> int:
    """Inputs of one output unit: the product of all axes of `shape` but `out_axis`.

    >>> fan_in((700, 128)), fan_in((3, 3, 16, 32))
    (700, 144)
    """
    shape = tuple(shape)
    axes = [a for axis in (in_axis, out_axis) for a in ((axis,) if isinstance(axis, int) else tuple(axis))]
    if len(shape) < 2 or any(not -len(shape) <= a < len(shape) for a in axes):
        raise ValueError(f"shape must have the axes in_axis={in_axis} and out_axis={out_axis} and so at least 2 of them, got {shape}")
    outs = {a % len(shape) for a in ((out_axis,) if isinstance(out_axis, int) else out_axis)}
    if outs & {a % len(shape) for a in ((in_axis,) if isinstance(in_axis, int) else in_axis)}:
        raise ValueError(f"in_axis and out_axis must be different axes, got {in_axis} and {out_axis} for shape {shape}")
    n = math.prod(size for a, size in enumerate(shape) if a not in outs)
    if n == 0:
        raise ValueError(f"shape must have at least one input, got {shape}")
    return n


def in_float32(draw: Callable[[jax.Array, Sequence[int], Any], jax.Array]) -> Initializer:
    """An initializer that draws in at least float32, and then rounds to the type that it is asked for.

    Random numbers drawn in 16 bits are not centred and have no tail: the mean of bfloat16 normal
    numbers is off by hundreds of standard errors.

    Args:
      draw: The initializer, `(key, shape, dtype) -> weights`.

    >>> init = in_float32(lambda key, shape, dtype: jax.random.normal(key, shape, dtype))
    >>> w = init(jax.random.key(0), (1000, 1000), jnp.bfloat16)
    >>> w.dtype, bool(abs(w.astype(jnp.float32).mean()) < 4e-3)
    (dtype(bfloat16), True)
    """

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        if isinstance(key, Sequence):
            raise TypeError(
                f"key must be a JAX random key, got {key!r}; an initializer is called with (key, shape, dtype). For Haiku, which calls it "
                "with (shape, dtype): lambda shape, dtype: init(hk.next_rng_key(), shape, dtype)"
            )
        return draw(key, tuple(shape), _check.wide(dtype)).astype(dtype)

    return init


def check_rates(name: str, nu: Any) -> None:
    """Raise unless `nu` (Hz) is one positive number, or an array of one per input."""
    _check.number(name, nu, above=0, unit="Hz")
    if jnp.ndim(nu) > 1:
        raise ValueError(f"{name} must be one rate, or one for each input, got shape {jnp.shape(nu)}")


def mean_rate(name: str, nu: Any, inputs: int | None = None) -> Any:
    """The mean rate of the inputs, which is all that the formulas need of them: they hold sum_j nu_j = n mean(nu).

    Args:
      name: For errors.
      nu: Rates, Hz: one number, or an array of one for each of the inputs.
      inputs: Their number. None: not checked.

    Raises:
      ValueError: A rate is not positive, or their number is not that of the inputs.

    >>> float(mean_rate("nu", jnp.array([5.0, 15.0]), 2)), mean_rate("nu", 5.0, 2)
    (10.0, 5.0)
    """
    check_rates(name, nu)
    if jnp.ndim(nu) == 0:
        return nu
    if inputs is not None and jnp.shape(nu) != (inputs,):
        raise ValueError(
            f"{name} must be one rate, or one for each of the {inputs} inputs (of a convolution: channels), got {jnp.size(nu)} rates"
        )
    return nu.mean()


def _axes(axis: Axes) -> tuple[int, ...]:
    return (axis,) if isinstance(axis, int) else tuple(axis)


def per_neuron(name: str, value: Any, shape: Sequence[int], out_axis: Axes = -1) -> Any:
    """`value`, one number or one for each neuron, in a shape that broadcasts against weights.

    Args:
      name: For errors.
      value: A number, or an array (neurons,).
      shape: The weights' shape.
      out_axis: Its axes that count the neurons.

    Raises:
      ValueError: The number of values is not that of the neurons.
    """
    if jnp.ndim(value) == 0:
        return value
    outs = {a % len(shape) for a in _axes(out_axis)}
    across = tuple(size if a in outs else 1 for a, size in enumerate(shape))
    if jnp.shape(value) != (math.prod(across),):
        raise ValueError(f"{name} must be one number, or one for each of {math.prod(across)} neurons, got shape {jnp.shape(value)}")
    return jnp.reshape(value, across)


def fluctuation_driven_normal(
    mu_u: Any,
    xi: Any,
    *,
    nu: Any,
    tau_mem: Any = 20e-3,
    tau_syn: Any = 10e-3,
    dt: Any = 2e-3,
    theta: Any = 1.0,
    mode: KernelMode = "discrete",
    share: Any = 1.0,
    total_drive: Any = None,
    density: float = 1.0,
    in_axis: Axes = -2,
    out_axis: Axes = -1,
) -> Initializer:
    """Normal weights that give the membrane mean `mu_u` and threshold distance `xi`.

    Args:
      mu_u: mean membrane potential, below theta.   xi: (theta - mu_u) / sigma_u, > 0; 1 to 3 is the fluctuation-driven regime.
      nu: rate of the presynaptic units, Hz: one number, or one for each input (the size of `in_axis`).
      tau_mem, tau_syn, dt: s.   theta: firing threshold.   mode: `"discrete"` or `"continuous"` kernel integrals (`snnjax.psp`).
      share: fraction of sigma_u^2 that this connection carries; alpha for the feed-forward one of a recurrent layer, 1 - alpha for the recurrent one.
      total_drive: sum of n nu (Hz) over all connections of the target neurons when there are several, so that the means add up to mu_u.
      density: fraction of the weights that are kept, in (0, 1].
      in_axis, out_axis: channel axes of the shape. Equinox and PyTorch keep dense weights as (out, in): `in_axis=-1, out_axis=-2`.

    The targets, time constants and theta may be arrays with one value for each neuron (the size of `out_axis`).

    Raises:
      ValueError: an option is out of range (at once), or no such weights exist for the fan-in (when called; names the allowed mu_u).
      Options that are traced, for example by vmap over xi, are not checked.

    >>> import jax
    >>> init = fluctuation_driven_normal(0.0, 1.0, nu=15.8)
    >>> w = init(jax.random.key(0), (700, 128))
    >>> w.shape, f"{w.std():.3f}"
    ((700, 128), '0.211')
    """
    check_rates("nu", nu)
    _check.number("share", share, above=0, at_most=1)
    _check.number("density", density, above=0, at_most=1)
    _check.one_of("mode", mode, get_args(KernelMode))
    check_target(mu_u, xi, theta)
    for name, tau in (("tau_mem", tau_mem), ("tau_syn", tau_syn), ("dt", dt)):
        _check.number(name, tau, above=0, unit="s")

    def weights(shape: Sequence[int]) -> WeightStatistics:
        n = fan_in(shape, in_axis=in_axis, out_axis=out_axis)
        rate = mean_rate("nu", nu, math.prod(shape[a] for a in _axes(in_axis)))
        options = {"tau_mem": tau_mem, "tau_syn": tau_syn, "dt": dt, "theta": theta, "mode": mode}
        return connection_weights(mu_u, xi, Afferent(n * density, rate, share), total_drive=total_drive, **options)

    @in_float32
    def init(key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
        name = "mu_u, xi, theta, tau_mem and tau_syn"
        mu_w, sigma_w = (jnp.asarray(per_neuron(name, value, shape, out_axis), dtype) for value in weights(shape))
        w = mu_w + sigma_w * jax.random.normal(key, shape, dtype)
        if density < 1:
            w = jnp.where(jax.random.bernoulli(jax.random.fold_in(key, 1), density, shape), w, 0)
        return w

    return init


def fluctuation_driven_centered(sigma_u: Any = 1.0, *, theta: Any = 1.0, **options: Any) -> Initializer:
    """`fluctuation_driven_normal` at mu_u = 0, told by the membrane's standard deviation `sigma_u` = theta / xi instead of xi.

    sigma_w = sigma_u sqrt(share / (n nu ehat)). `options` are those of `fluctuation_driven_normal`; `nu` is needed.

    >>> import jax
    >>> w = fluctuation_driven_centered(1.0, nu=5.0)(jax.random.key(0), (20, 128))
    >>> f"{w.std():.2f}"
    '2.23'
    """
    _check.number("sigma_u", sigma_u, above=0)
    _check.number("theta", theta, above=0)
    return fluctuation_driven_normal(0.0, theta / sigma_u, theta=theta, **options)


def scaled_normal(gain: Any = 1.0, *, power: float = 0.5, in_axis: Axes = -2, out_axis: Axes = -1) -> Initializer:
    """Normal(0, gain / k^power) with k the fan-in: 1/sqrt(k) for `power=0.5` (the paper's readout), 1/k for `power=1`.

    >>> import jax
    >>> f"{scaled_normal(power=0.5)(jax.random.key(0), (400, 50)).std():.3f}"
    '0.050'
    """
    _check.number("gain", gain, above=0)
    _check.number("power", power, at_least=0)

    @in_float32
    def init(key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
        k = fan_in(shape, in_axis=in_axis, out_axis=out_axis)
        return jnp.asarray(gain / k**power, dtype) * jax.random.normal(key, shape, dtype)

    return init


def kaiming_normal(gain: Any = 1.0, *, in_axis: Axes = -2, out_axis: Axes = -1) -> Initializer:
    """Normal(0, gain / sqrt(fan-in)). Gain 1 is what the paper compares with; sqrt(2) is He et al. (2015), arXiv 1502.01852, for ReLU.

    >>> import jax
    >>> f"{kaiming_normal()(jax.random.key(0), (100, 100)).std():.2f}"
    '0.10'
    """
    return scaled_normal(gain, power=0.5, in_axis=in_axis, out_axis=out_axis)


def normal(mu_w: Any = 0.0, sigma_w: Any = 1.0) -> Initializer:
    """Normal(mu_w, sigma_w), whatever the shape: for studies over the weights themselves. `jax.nn.initializers.normal` has no mean.

    >>> import jax
    >>> weights = normal(-0.5, 2.0)(jax.random.key(0), (100, 100))
    >>> f"{weights.mean():.1f} {weights.std():.1f}"
    '-0.5 2.0'
    """
    _check.number("mu_w", mu_w)
    _check.number("sigma_w", sigma_w, at_least=0)

    @in_float32
    def init(key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
        return jnp.asarray(mu_w, dtype) + jnp.asarray(sigma_w, dtype) * jax.random.normal(key, shape, dtype)

    return init


def micheli_normal(*, nu: Any, dt: Any, in_axis: Axes = -2, out_axis: Axes = -1) -> Initializer:
    """Normal(0, 1 / sqrt(fan-in P)), P = nu dt the probability that an input spikes in a step: keeps the variance of the input of a step from layer to layer.

    Ignores the membrane and the synapse (no leak, no memory across steps) and the threshold, so it depends on dt where `fluctuation_driven_normal` does not:
    the two agree where ehat happens to equal dt, as for 20 and 10 ms at dt = 2 ms. Source: Micheli et al. (2024), arXiv 2410.00580.

    Args:
      nu: rate of the inputs, Hz, one number or one for each input; nu dt <= 1.   dt: time step, s.   in_axis, out_axis: channel axes.

    >>> import jax
    >>> f"{micheli_normal(nu=15.8, dt=2e-3)(jax.random.key(0), (700, 128)).std():.2f}"
    '0.21'
    """
    check_rates("nu", nu)
    _check.number("dt", dt, above=0, unit="s")
    _check.number("nu dt", nu * dt, at_most=1)

    def init(key: jax.Array, shape: Sequence[int], dtype: Any = jnp.float32) -> jax.Array:
        rate = mean_rate("nu", nu, math.prod(shape[a] for a in _axes(in_axis)))
        return scaled_normal((rate * dt) ** -0.5, power=0.5, in_axis=in_axis, out_axis=out_axis)(key, shape, dtype)

    return init


def ikun_normal(
    *, spike: SpikeFunction | None = None, variant: Literal["v1", "v2"] = "v1", in_axis: Axes = -2, out_axis: Axes = -1
) -> Initializer:
    """IKUN: Normal(0, sqrt(b / fan)), b = 1 / mean of the surrogate derivative h(v) over -1 <= v <= 1.

    `variant="v1"`: fan is the fan-in; `"v2"`: fan-in plus fan-out. For SuperSpike at beta = 20 the mean is 1/21 and b = 21. It makes up for what the
    surrogate takes from a gradient, and ignores the input's rate, the membrane, the synapse, the threshold and the time step: what the neuron does with these
    weights is left to chance. Source: Chang, Wang & Yang (2024), arXiv 2411.18250, as in the authors' published code (MaeChd/SurrogateVarStabe).

    Args:
      spike: the layer's spike function; `superspike(20.0)` when None.   in_axis, out_axis: channel axes.

    >>> import jax
    >>> f"{ikun_normal()(jax.random.key(0), (700, 128)).std():.3f} {(21 / 700) ** 0.5:.3f}"
    '0.173 0.173'
    """
    _check.one_of("variant", variant, ("v1", "v2"))
    spike = superspike(20.0) if spike is None else spike
    if not isinstance(spike, SpikeFunction):
        raise TypeError(f"spike must be a snnjax.surrogate.SpikeFunction, whose derivative is known, got {spike!r}")

    @in_float32
    def init(key: jax.Array, shape: Sequence[int], dtype: Any) -> jax.Array:
        n = fan_in(shape, in_axis=in_axis, out_axis=out_axis)
        if variant == "v2":
            n += fan_in(shape, in_axis=out_axis, out_axis=in_axis)
        # midpoints of a grid fine against the narrowest surrogate in use; even in number, so that a cusp at 0 is on an edge
        grid = (jnp.arange(20_000) + 0.5) / 10_000 - 1
        gain = 1 / spike.derivative(grid).mean()
        return jnp.sqrt(gain / n).astype(dtype) * jax.random.normal(key, shape, dtype)

    return init


def lecun_normal(*, in_axis: Axes = -2, out_axis: Axes = -1) -> Initializer:
    """Flax's default kernel initializer: normal of standard deviation 1/sqrt(fan-in), truncated at two of them.

    >>> import jax
    >>> bool(abs(lecun_normal()(jax.random.key(0), (100, 100))).max() < 0.23)
    True
    """
    return in_float32(jax.nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal", in_axis, out_axis))
