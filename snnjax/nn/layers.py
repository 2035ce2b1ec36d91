"""Dense layers that map a whole sequence to a whole sequence, (time, batch, in) -> (time, batch, out).

The input product x @ W is one product over all time steps, outside the scan; inside it are the elementwise dynamics and the recurrent product.
`step` is the same layer one time step at a time.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from snnjax import _check
from snnjax.dynamics import LIF, LeakyIntegrator, Neuron, Simulation, dense_recurrence, simulate
from snnjax.initializers import Initializer, scaled_normal
from snnjax.nn.init import Connection, LayerInit, SameForAll, as_layer_init


def _hold(neuron: Any) -> Any:
    """Plain numbers are structure, so that jit sees constants; arrays and tracers are data."""
    plain = all(isinstance(leaf, int | float) for leaf in jax.tree.leaves(neuron))
    return nnx.static(neuron) if plain else nnx.data(neuron)


class _Dense(nnx.Module):
    """What spiking and readout layers share: the weights, the neuron with its trainable time constants, run and step."""

    spiking: bool

    def __init__(
        self, in_features: int, out_features: int, *, neuron: Any, recurrent: bool, init: LayerInit | Initializer, trainable: Sequence[str],
        dtype: Any, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        self.in_features = _check.integer("in_features", in_features, at_least=1)
        self.out_features = _check.integer("out_features", out_features, at_least=1)
        if not isinstance(rngs, nnx.Rngs):
            raise TypeError(f"rngs must be a flax.nnx.Rngs, for example nnx.Rngs(0), got {type(rngs).__name__} {rngs!r}")
        if isinstance(neuron, type) or not isinstance(neuron, Neuron):
            raise TypeError(f"neuron must have initial_state and step (snnjax.dynamics.Neuron), got {neuron!r}")
        if not hasattr(neuron, "tau_syn"):
            raise TypeError(f"neuron must have one synaptic current with time constant tau_syn, got {type(neuron).__name__}")
        connections = [Connection(in_features)] + [Connection(out_features, recurrent=True)] * recurrent
        initializers = as_layer_init(init)(neuron, connections)
        self.kernel = nnx.Param(initializers[0](rngs.params(), (in_features, out_features), dtype))
        self.recurrent_kernel = (
            nnx.Param(initializers[1](rngs.params(), (out_features, out_features), dtype)) if recurrent else nnx.data(None)
        )
        self._neuron = _hold(neuron)
        fields: Any = dataclasses.fields(neuron) if dataclasses.is_dataclass(neuron) else ()
        times = [f.name for f in fields if f.name.startswith("tau_")]
        for name in trainable:
            _check.one_of("trainable", name, times)
        # the logarithm is what is trained: no update can make a time constant negative
        log = lambda tau: jnp.broadcast_to(jnp.log(jnp.asarray(tau, self._state_dtype)), (out_features,))  # noqa: E731
        self.log_tau = nnx.Dict({name: nnx.Param(log(getattr(neuron, name))) for name in trainable})

    @property
    def neuron(self) -> Any:
        """The neuron model, with the time constants at their present, possibly trained values."""
        learned = {name: jnp.exp(param[...]) for name, param in self.log_tau.items()}
        return dataclasses.replace(self._neuron, **learned) if learned else self._neuron

    @property
    def recurrent(self) -> bool:
        """Whether the layer feeds its spikes back to itself."""
        return self.recurrent_kernel is not None

    def initial_state(self, batch_size: int) -> Any:
        """The neurons' state before the first step, arrays (batch_size, out_features)."""
        return self.neuron.initial_state((batch_size, self.out_features), self._state_dtype)

    @property
    def _state_dtype(self) -> Any:
        """At least float32: 16 bits cannot hold a membrane that decays by less than 1/256 a step."""
        return jnp.promote_types(self.kernel[...].dtype, jnp.float32)

    def _drive(self, x: jax.Array) -> jax.Array:
        kernel = self.kernel[...]
        return jnp.matmul(x.astype(kernel.dtype), kernel, preferred_element_type=self._state_dtype)

    def __call__(self, x: jax.Array, *, state: Any = None, membrane: bool = False) -> Simulation:
        """Run a sequence.

        Args:
          x: inputs (time, batch, in_features).   state: where to start, the initial state when None.   membrane: return its trace too.

        Returns:
          `Simulation(output, membrane, state)`, the first two (time, batch, out_features).
        """
        _check.time_major("x", x, features=self.in_features)
        drive = self._drive(x)
        if self.recurrent_kernel is None:
            return simulate(self.neuron, drive, state=state, membrane=membrane)
        return simulate(self.neuron, drive, recurrent=dense_recurrence, weights=self.recurrent_kernel[...], state=state, membrane=membrane)

    def step(self, state: Any, x: jax.Array) -> tuple[Any, jax.Array]:
        """One time step with inputs x (batch, in_features): the next state and the output (batch, out_features)."""
        expected = (jax.tree.leaves(state)[0].shape[0], self.in_features)
        if jnp.shape(x) != expected:
            raise ValueError(f"x must have shape (batch, in_features) = {expected}, one time step for this state, got {jnp.shape(x)}")
        neuron, drive = self.neuron, self._drive(x)
        if self.recurrent_kernel is not None:
            _, z = neuron.step(state, jnp.zeros_like(drive))
            drive = drive + dense_recurrence(z, self.recurrent_kernel[...])
        return neuron.step(state, drive)


class SpikingDense(_Dense):
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
            in_features, out_features, neuron=LIF() if neuron is None else neuron, recurrent=recurrent, init=init,
            trainable=trainable, dtype=dtype, rngs=rngs,
        )  # fmt: skip


class Readout(_Dense):
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
            in_features, out_features, neuron=LeakyIntegrator() if neuron is None else neuron, recurrent=False,
            init=SameForAll(scaled_normal() if kernel_init is None else kernel_init), trainable=trainable, dtype=dtype, rngs=rngs,
        )  # fmt: skip
