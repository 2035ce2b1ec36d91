"""Dense layers that map a whole sequence to a whole sequence, (time, batch, in) -> (time, batch, out).

The input product x @ W is one product over all time steps, outside the scan; inside it are the elementwise dynamics and the recurrent product.
`step` is the same layer one time step at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from snnjax.dynamics import LIF, LeakyIntegrator, dense_recurrence
from snnjax.initializers import Initializer, scaled_normal
from snnjax.nn._synaptic import Synaptic
from snnjax.nn.init import LayerInit, SameForAll
from snnjax.sparse import EventRaster, dense_dot, events_dot


class DenseMaps(Synaptic):
    """The dense linear maps."""

    _recur = staticmethod(dense_recurrence)

    takes_events = True

    def _project(self, x: Any, kernel: jax.Array) -> jax.Array:
        """x @ kernel for x (..., in_features), or an `EventRaster`, and kernel (in_features, n): (..., n), in at least float32."""
        return events_dot(x, kernel) if isinstance(x, EventRaster) else dense_dot(x, kernel)


class SpikingDense(DenseMaps):
    """A dense layer of spiking neurons, feed-forward or recurrent.

    Args:
      in_features, out_features: units of the input and of the layer.
      init: how to draw the weights, for example `FluctuationDriven(nu=15.8, sigma_u=1.0)`; a `LayerInit`, or a plain initializer
        `(key, shape, dtype)` for every connection.
      neuron: `LIF`, `AdaptiveLIF` or any `snnjax.dynamics.Neuron`.
      recurrent: also connect every neuron of the layer with every other and itself.
      trainable: names of time constants of the neuron to learn, one value a neuron, for example `("tau_mem",)`.
      dtype: of the weights and of their products with the input; neurons are kept in at least float32.   rngs: `nnx.Rngs`, stream `params`.

    Parameters: `kernel` (in, out); `recurrent_kernel` (out, out), sender by receiver; `log_tau[name]` (out,), log seconds.

    >>> import jax.numpy as jnp
    >>> from snnjax.nn import FluctuationDriven
    >>> layer = SpikingDense(20, 128, init=FluctuationDriven(nu=5.0), recurrent=True, rngs=nnx.Rngs(0))
    >>> layer(jnp.ones((100, 4, 20))).output.shape
    (100, 4, 128)
    """

    spiking = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        init: LayerInit | Initializer,
        neuron: Any = None,
        recurrent: bool = False,
        trainable: Sequence[str] = (),
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(
            in_features, out_features, window=(), recurrent_window=() if recurrent else None, neuron=LIF() if neuron is None else neuron,
            init=init, trainable=trainable, dtype=dtype, rngs=rngs,
        )  # fmt: skip


class Readout(DenseMaps):
    """A dense layer of leaky integrators, (time, batch, in) -> (time, batch, out): the traces that a loss reads.

    Args:
      in_features, out_features: units of the last hidden layer, classes.
      neuron: `LeakyIntegrator`; give it the trial's duration as `tau_mem`.
      kernel_init: an initializer; Normal(0, 1/sqrt(in_features)) by default, as in the paper.
      trainable, dtype, rngs: as in `SpikingDense`.

    >>> from snnjax.dynamics import LeakyIntegrator
    >>> readout = Readout(128, 10, neuron=LeakyIntegrator(tau_mem=0.2), rngs=nnx.Rngs(0))
    >>> readout(jnp.ones((100, 4, 128))).output.shape
    (100, 4, 10)
    """

    spiking = False

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        neuron: Any = None,
        kernel_init: Initializer | None = None,
        trainable: Sequence[str] = (),
        dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ) -> None:
        super().__init__(
            in_features, out_features, window=(), recurrent_window=None, neuron=LeakyIntegrator() if neuron is None else neuron,
            init=SameForAll(scaled_normal() if kernel_init is None else kernel_init), trainable=trainable, dtype=dtype, rngs=rngs,
        )  # fmt: skip
