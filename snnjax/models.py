"""The paper's networks as functions of their sizes: dense layers, and spiking convolutions over a line of input units.

Both end in a readout of leaky integrators. Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb: the three-layer convolutional network for 700 units
has 16, 32 and 64 feature maps, kernels 21, 7 and 7, strides 10, 3 and 3, no padding, and recurrent kernels of 5. Of those with 1, 7 and 10 layers the paper
says that they have further layers of stride 1; how many of which width is our choice: one layer is the first alone; 7 and 10 put one (and, at the widest,
two), or two (three), layers of the same width, stride 1 and size after each of the three.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from flax import nnx

from snnjax import _check
from snnjax.initializers import Initializer
from snnjax.nn import Flatten, LayerInit, Readout, Reshape, Sequential, SpikingConv1d, SpikingDense


class Conv(NamedTuple):
    """A convolutional layer: feature maps, size of the kernel, stride, and padding as `SpikingConv` has it."""

    maps: int
    kernel: int
    stride: int = 1
    padding: Literal["valid", "same"] = "valid"


_FIRST, _SECOND, _THIRD = Conv(16, 21, 10), Conv(32, 7, 3), Conv(64, 7, 3)
# kernels that are not much larger than what there is to see: 68, 21 and 5 positions
_AFTER = {16: Conv(16, 7, padding="same"), 32: Conv(32, 7, padding="same"), 64: Conv(64, 3, padding="same")}
CSNN: dict[int, tuple[Conv, ...]] = {
    1: (_FIRST,),
    3: (_FIRST, _SECOND, _THIRD),
    7: (_FIRST, _AFTER[16], _SECOND, _AFTER[32], _THIRD, _AFTER[64], _AFTER[64]),
    10: (_FIRST, *[_AFTER[16]] * 2, _SECOND, *[_AFTER[32]] * 2, _THIRD, *[_AFTER[64]] * 3),
}
RECURRENT_KERNEL = 5


def dense(
    n_inputs: int,
    n_classes: int,
    *,
    hidden: Sequence[int],
    init: LayerInit | Initializer,
    neuron: Any = None,
    integrator: Any = None,
    recurrent: bool = False,
    skip: bool = False,
    remat_steps: int | None = None,
    trainable: Sequence[str] = (),
    rngs: nnx.Rngs,
) -> Sequential:
    """Dense spiking layers.

    Args:
      n_inputs, n_classes: units of input and readout.   hidden: neurons of each layer, at least one layer.
      init, neuron, recurrent, trainable: of every hidden layer, as in `SpikingDense`.   integrator: the readout's `LeakyIntegrator`.
      skip, remat_steps: as in `Sequential`.   rngs: `nnx.Rngs`.

    >>> import jax.numpy as jnp
    >>> from snnjax.nn import FluctuationDriven
    >>> network = dense(20, 10, hidden=(64, 32), skip=True, init=FluctuationDriven(nu=5.0), rngs=nnx.Rngs(0))
    >>> network(jnp.ones((50, 2, 20)))[0].shape, network.layers[-1].in_features
    ((50, 2, 10), 96)
    """
    if not hidden:
        raise ValueError("hidden must name at least one layer, got none")
    layers = [
        SpikingDense(n_in, n_out, init=init, neuron=neuron, recurrent=recurrent, trainable=trainable, rngs=rngs)
        for n_in, n_out in itertools.pairwise((n_inputs, *hidden))
    ]
    readout = Readout(sum(hidden) if skip else hidden[-1], n_classes, neuron=integrator, rngs=rngs)
    return Sequential(*layers, readout, skip=skip, remat_steps=remat_steps)


def csnn(
    n_inputs: int,
    n_classes: int,
    *,
    depth: int = 3,
    layers: Sequence[Conv] | None = None,
    init: LayerInit | Initializer,
    neuron: Any = None,
    integrator: Any = None,
    recurrent: bool = True,
    skip: bool = False,
    remat_steps: int | None = None,
    trainable: Sequence[str] = (),
    rngs: nnx.Rngs,
) -> Sequential:
    """Spiking convolutions over a line of input units, (time, batch, n_inputs).

    Args:
      n_inputs, n_classes: units of input and readout.   depth: 1, 3, 7 or 10 layers, of `CSNN`.   layers: your own instead.
      recurrent: convolve every layer's spikes with a recurrent kernel of `RECURRENT_KERNEL`.
      init, neuron, integrator, skip, remat_steps, trainable, rngs: as in `dense`; time constants are one a feature map.

    Raises:
      ValueError: no network of that depth, or the input is too short for it.

    >>> import jax.numpy as jnp
    >>> from snnjax.nn import FluctuationDriven
    >>> network = csnn(700, 20, depth=7, init=FluctuationDriven(nu=15.8), rngs=nnx.Rngs(0))
    >>> readout, activity = network(jnp.ones((10, 1, 700)))
    >>> readout.shape, [z.shape[2:] for z in activity.spikes]
    ((10, 1, 20), [(68, 16), (68, 16), (21, 32), (21, 32), (5, 64), (5, 64), (5, 64)])
    """
    _check.integer("n_inputs", n_inputs, at_least=1)
    if layers is None:
        layers = CSNN[_check.one_of("depth", depth, tuple(CSNN))]
    if not layers:
        raise ValueError("layers must hold at least one layer, got none")
    stack, positions, maps, flat = [], n_inputs, 1, []
    for k, conv in enumerate(layers):
        if conv.padding == "valid" and positions < conv.kernel:
            raise ValueError(
                f"n_inputs must be enough for layer {k}, whose kernel is {conv.kernel}, got {n_inputs}: {positions} positions are left"
            )
        layer = SpikingConv1d(
            maps, conv.maps, kernel_size=conv.kernel, stride=conv.stride, padding=conv.padding, init=init, neuron=neuron,
            recurrent_kernel_size=RECURRENT_KERNEL if recurrent else None, trainable=trainable, rngs=rngs,
        )  # fmt: skip
        (size,) = layer.out_shape((positions,))
        stack.append(layer)
        positions, maps = size or 0, conv.maps
        flat.append(positions * maps)
    readout = Readout(sum(flat) if skip else flat[-1], n_classes, neuron=integrator, rngs=rngs)
    return Sequential(Reshape(n_inputs, 1), *stack, Flatten(), readout, skip=skip, remat_steps=remat_steps)
