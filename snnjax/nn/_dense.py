"""Dense layers, (time, batch, in) to (time, batch, out)."""

from __future__ import annotations

from typing import Unpack

from snnjax.dynamics import LeakyIntegrator
from snnjax.initializers import Initializer, kaiming_normal
from snnjax.nn._init import LayerInit, SameForAll
from snnjax.nn._maps import DenseMap
from snnjax.nn._synaptic import LayerOptions, Spiking, Synaptic


class SpikingDense(Spiking):
    """A dense layer of spiking neurons, feed-forward or recurrent.

    Args:
        in_features: Units of the input.
        out_features: Units of the layer.
        init: Initialization of the weights, for example `FluctuationDriven(nu=15.8, sigma_u=1.0)`:
            a `LayerInit`, or an initializer `(key, shape, dtype)` for every connection.
        neuron: `LIF`, `AdaptiveLIF` or any `snnjax.dynamics.Neuron`; `LIF()` if None.
        recurrent: Whether to connect every neuron of the layer to all neurons of the layer,
            including itself.
        trainable: Names of the neuron's parameters that are trained, with one value per neuron,
            for example `("tau_mem", "theta")`; see `Neuron.trained_ranges`.
        bias: Whether a trained constant, one per neuron, is added to the drive in each step. It
            starts at 0.
        norm: `BatchNorm()` normalizes the drive by the input; None: none.
        delays: Learned delays, `Delays(max_delay=...)`; None: no delays.
        dtype: Data type of the weights and of their products with the input. The neurons' state has
            at least float32.
        rngs: `nnx.Rngs`, stream `params`.

    Parameters: `kernel` (in, out); `recurrent_kernel` (out, out), sender by receiver; `bias`
    (out,); `log_tau[name]` (out,), log seconds; `free[name]` (out,), other trained parameters of
    the neuron as numbers without bounds; `drawn[name]` (out,), those drawn from a distribution;
    with delays, `delay` (in,) and `recurrent_delay` (out,), or of the shapes of the weights, and
    `delay_width`.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> from snnjax.nn import FluctuationDriven
    >>> init = FluctuationDriven(nu=5.0)
    >>> layer = SpikingDense(20, 128, init=init, recurrent=True, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((100, 4, 20))).output.shape
    (100, 4, 128)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        init: LayerInit | Initializer,
        recurrent: bool = False,
        **options: Unpack[LayerOptions],
    ) -> None:
        own = DenseMap(out_features, out_features) if recurrent else None
        super().__init__(DenseMap(in_features, out_features), recurrent=own, init=init, **options)


class Readout(Synaptic):
    """A dense layer of leaky integrators. Its traces are the input of the loss.

    It maps (time, batch, in) to (time, batch, out).

    Args:
        in_features: Units of the last hidden layer.
        out_features: Number of classes, or of target values.
        neuron: A `LeakyIntegrator`; its `tau_mem` should be the duration of a trial.
        kernel_init: An initializer; Normal(0, 1/sqrt(in_features)) if None, as in the paper.
        trainable: As in `SpikingDense`.
        bias: As in `SpikingDense`.
        delays: As in `SpikingDense`.
        dtype: As in `SpikingDense`.
        rngs: `nnx.Rngs`, stream `params`.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> from snnjax.dynamics import LeakyIntegrator
    >>> readout = Readout(128, 10, neuron=LeakyIntegrator(tau_mem=0.2), rngs=nnx.Rngs(0))
    >>> readout(jnp.ones((100, 4, 128))).output.shape
    (100, 4, 10)
    """

    _default_neuron = LeakyIntegrator

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        kernel_init: Initializer | None = None,
        **options: Unpack[LayerOptions],
    ) -> None:
        init = SameForAll(kaiming_normal() if kernel_init is None else kernel_init)
        super().__init__(DenseMap(in_features, out_features), init=init, **options)
