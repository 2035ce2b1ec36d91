"""The paper's networks as functions of their sizes: dense layers, and spiking convolutions over a line of input units or over images.

All end in a readout of leaky integrators. Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb: the three-layer convolutional network for 700 units
has 16, 32 and 64 feature maps, kernels 21, 7 and 7, strides 10, 3 and 3, no padding, and recurrent kernels of 5. Of those with 1, 7 and 10 layers the paper
says that they have further layers of stride 1; how many of which width is our choice: one layer is the first alone; 7 and 10 put one (and, at the widest,
two), or two (three), layers of the same width, stride 1 and size after each of the three.

Over images and event cameras: blocks of two convolutions, 3 x 3, stride 1, and 2 x 2 max-pooling of their spikes, 16 and then 32 feature maps; event
cameras with padding 2 and no recurrence. The widths of a third and fourth block (64) are our choice, as is a static image's padding (same size).

Dale's law: dense layers (128 excitatory, 32 inhibitory neurons in the paper) and convolutions over a line. The ratio of 4 in every layer, the recurrent
kernel's size for inhibition and a readout whose weights may have either sign are our choice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

from flax import nnx

from snnjax import _check
from snnjax.initializers import Initializer
from snnjax.nn import (
    DalianConv1d,
    DalianDense,
    Dropout,
    Flatten,
    LayerInit,
    Pool,
    Readout,
    Reshape,
    Sensory,
    Sequential,
    SpikingConv1d,
    SpikingConv2d,
    SpikingDense,
)
from snnjax.nn.conv import Padding


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
BLOCKS: dict[int, tuple[tuple[int, ...], ...]] = {
    2: ((16, 16),),
    4: ((16, 16), (32, 32)),
    6: ((16, 16), (32, 32), (64, 64)),
    8: ((16, 16), (32, 32), (64, 64), (64, 64)),
}
"""Feature maps of `csnn2d` by number of layers."""


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
    dropout: float = 0.0,
    sensory: bool = False,
    trainable: Sequence[str] = (),
    rngs: nnx.Rngs,
) -> Sequential:
    """Dense spiking layers.

    Args:
      n_inputs, n_classes: units of input and readout.   hidden: neurons of each layer, at least one layer.
      init, neuron, recurrent, trainable: of every hidden layer, as in `SpikingDense`.   integrator: the readout's `LeakyIntegrator`.
      skip, remat_steps: as in `Sequential`.   dropout: probability that `Dropout` after each hidden layer leaves a neuron out.
      sensory: pixel values instead of spikes come in, (time, batch, ...) with `n_inputs` features: begin with `Sensory` neurons, each with gain and bias.
      rngs: `nnx.Rngs`.

    >>> import jax.numpy as jnp
    >>> from snnjax.nn import FluctuationDriven
    >>> network = dense(20, 10, hidden=(64, 32), skip=True, init=FluctuationDriven(nu=5.0), rngs=nnx.Rngs(0))
    >>> network(jnp.ones((50, 2, 20)))[0].shape, network.layers[-1].in_features
    ((50, 2, 10), 96)
    """

    def layer(n_in: int, n_out: int) -> Any:
        return SpikingDense(n_in, n_out, init=init, neuron=neuron, recurrent=recurrent, trainable=trainable, rngs=rngs)

    first = [Flatten(), Sensory(n_inputs, neuron=neuron)] if sensory else []
    return _dense(
        layer, n_inputs, n_classes, hidden, first, integrator=integrator, skip=skip, remat_steps=remat_steps, dropout=dropout, rngs=rngs
    )


def _dense(
    layer: Callable[[int, int], Any], n_inputs: int, n_classes: int, hidden: Sequence[int], first: Sequence[Any] = (), *, integrator: Any, skip: bool,
    remat_steps: int | None, dropout: float, rngs: nnx.Rngs,
) -> Sequential:  # fmt: skip
    if not hidden:
        raise ValueError("hidden must name at least one layer, got none")
    layers = [*first]
    for n_in, n_out in itertools.pairwise((n_inputs, *hidden)):
        layers += [layer(n_in, n_out), *_drop(dropout)]
    readout = Readout(sum(hidden) if skip else hidden[-1], n_classes, neuron=integrator, rngs=rngs)
    return Sequential(*layers, readout, skip=skip, remat_steps=remat_steps)


def dalian(
    n_inputs: int,
    n_classes: int,
    *,
    hidden: Sequence[int] = (128,),
    ei_ratio: float = 4.0,
    init: LayerInit | Initializer,
    neuron: Any = None,
    integrator: Any = None,
    recurrent: bool = True,
    skip: bool = False,
    remat_steps: int | None = None,
    dropout: float = 0.0,
    trainable: Sequence[str] = (),
    rngs: nnx.Rngs,
) -> Sequential:
    """Dense layers that obey Dale's law; the paper's has one of 128 excitatory and 32 inhibitory neurons, recurrent.

    Args:
      n_inputs, n_classes: units of input and readout.   hidden: excitatory neurons of each layer, `ei_ratio` times as many as inhibitory ones.
      init, neuron, recurrent, trainable: of every hidden layer, as in `DalianDense`.
      integrator, skip, remat_steps, dropout, rngs: as in `dense`. The readout sees excitatory neurons alone, through weights of either sign.

    >>> import jax.numpy as jnp
    >>> from snnjax.nn import DalianFluctuationDriven
    >>> network = dalian(700, 20, init=DalianFluctuationDriven(nu=15.8), rngs=nnx.Rngs(0))
    >>> readout, activity = network(jnp.ones((10, 2, 700)))
    >>> readout.shape, activity.spikes[0].shape, network.layers[-1].in_features
    ((10, 2, 20), (10, 2, 160), 128)
    """

    def layer(n_in: int, n_out: int) -> Any:
        return DalianDense(
            n_in, n_out, ei_ratio=ei_ratio, init=init, neuron=neuron, recurrent=recurrent, trainable=trainable, rngs=rngs
        )  # fmt: skip

    return _dense(layer, n_inputs, n_classes, hidden, integrator=integrator, skip=skip, remat_steps=remat_steps, dropout=dropout, rngs=rngs)


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
    dropout: float = 0.0,
    trainable: Sequence[str] = (),
    rngs: nnx.Rngs,
) -> Sequential:
    """Spiking convolutions over a line of input units, (time, batch, n_inputs).

    Args:
      n_inputs, n_classes: units of input and readout.   depth: 1, 3, 7 or 10 layers, of `CSNN`.   layers: your own instead.
      recurrent: convolve every layer's spikes with a recurrent kernel of `RECURRENT_KERNEL`.
      init, neuron, integrator, skip, remat_steps, dropout, trainable, rngs: as in `dense`; time constants are one a feature map.

    Raises:
      ValueError: no network of that depth, or the input is too short for it.

    >>> import jax.numpy as jnp
    >>> from snnjax.nn import FluctuationDriven
    >>> network = csnn(700, 20, depth=7, init=FluctuationDriven(nu=15.8), rngs=nnx.Rngs(0))
    >>> readout, activity = network(jnp.ones((10, 1, 700)))
    >>> readout.shape, [z.shape[2:] for z in activity.spikes]
    ((10, 1, 20), [(68, 16), (68, 16), (21, 32), (21, 32), (5, 64), (5, 64), (5, 64)])
    """

    def layer(maps: int, conv: Conv) -> Any:
        return SpikingConv1d(
            maps, conv.maps, kernel_size=conv.kernel, stride=conv.stride, padding=conv.padding, init=init, neuron=neuron,
            recurrent_kernel_size=RECURRENT_KERNEL if recurrent else None, trainable=trainable, rngs=rngs,
        )  # fmt: skip

    convs = CSNN[_check.one_of("depth", depth, tuple(CSNN))] if layers is None else layers
    return _csnn(layer, n_inputs, n_classes, convs, integrator=integrator, skip=skip, remat_steps=remat_steps, dropout=dropout, rngs=rngs)


def _csnn(
    make: Callable[[int, Conv], Any], n_inputs: int, n_classes: int, layers: Sequence[Conv], *, integrator: Any, skip: bool,
    remat_steps: int | None, dropout: float, rngs: nnx.Rngs,
) -> Sequential:  # fmt: skip
    _check.integer("n_inputs", n_inputs, at_least=1)
    if not layers:
        raise ValueError("layers must hold at least one layer, got none")
    stack: list[Any] = []
    positions, maps, flat = n_inputs, 1, []
    for k, conv in enumerate(layers):
        if conv.padding == "valid" and positions < conv.kernel:
            raise ValueError(
                f"n_inputs must be enough for layer {k}, whose kernel is {conv.kernel}, got {n_inputs}: {positions} positions are left"
            )
        layer = make(maps, conv)
        (size,) = layer.out_shape((positions,))
        stack += [layer, *_drop(dropout)]
        positions, maps = size or 0, conv.maps
        flat.append(positions * maps)
    readout = Readout(sum(flat) if skip else flat[-1], n_classes, neuron=integrator, rngs=rngs)
    return Sequential(Reshape(n_inputs, 1), *stack, Flatten(), readout, skip=skip, remat_steps=remat_steps)


def dalian_csnn(
    n_inputs: int,
    n_classes: int,
    *,
    depth: int = 3,
    layers: Sequence[Conv] | None = None,
    ei_ratio: float = 4.0,
    init: LayerInit | Initializer,
    neuron: Any = None,
    integrator: Any = None,
    recurrent: bool = True,
    skip: bool = False,
    remat_steps: int | None = None,
    dropout: float = 0.0,
    trainable: Sequence[str] = (),
    rngs: nnx.Rngs,
) -> Sequential:
    """`csnn` with Dale's law: the feature maps of `CSNN` are excitatory, and each layer has inhibitory ones besides, `ei_ratio` times fewer.

    Args:
      recurrent: convolve the excitatory spikes of every layer with a recurrent kernel of `RECURRENT_KERNEL`; inhibition always has one.
      Others: as in `csnn` and `dalian`.

    >>> import jax.numpy as jnp
    >>> from snnjax.nn import DalianFluctuationDriven
    >>> network = dalian_csnn(700, 20, init=DalianFluctuationDriven(nu=15.8), rngs=nnx.Rngs(0))
    >>> readout, activity = network(jnp.ones((10, 1, 700)))
    >>> readout.shape, [z.shape[2:] for z in activity.spikes], network.layers[-1].in_features
    ((10, 1, 20), [(68, 20), (21, 40), (5, 80)], 320)
    """

    def layer(maps: int, conv: Conv) -> Any:
        return DalianConv1d(
            maps, conv.maps, ei_ratio=ei_ratio, kernel_size=conv.kernel, stride=conv.stride, padding=conv.padding,
            lateral_kernel_size=RECURRENT_KERNEL, recurrent=recurrent, init=init, neuron=neuron, trainable=trainable, rngs=rngs,
        )  # fmt: skip

    convs = CSNN[_check.one_of("depth", depth, tuple(CSNN))] if layers is None else layers
    return _csnn(layer, n_inputs, n_classes, convs, integrator=integrator, skip=skip, remat_steps=remat_steps, dropout=dropout, rngs=rngs)


def csnn2d(
    image: Sequence[int],
    n_classes: int,
    *,
    depth: int = 4,
    blocks: Sequence[Sequence[int]] | None = None,
    kernel: int = 3,
    padding: Padding = "same",
    pool: int = 2,
    sensory: bool = False,
    init: LayerInit | Initializer,
    neuron: Any = None,
    integrator: Any = None,
    recurrent: bool = False,
    skip: bool = False,
    remat_steps: int | None = None,
    dropout: float = 0.0,
    trainable: Sequence[str] = (),
    rngs: nnx.Rngs,
) -> Sequential:
    """Spiking convolutions over images or the frame of an event camera, (time, batch, height, width, channels) or flattened, with pooling.

    Args:
      image: height, width and channels.   n_classes: units of the readout.
      depth: 2, 4, 6 or 8 layers, of `BLOCKS`.   blocks: your own instead, feature maps of the layers of each block.
      kernel, padding: of every convolution, stride 1.   pool: window of the max-pooling after each block; 1: none.
      sensory: pixel values instead of spikes come in: begin with `Sensory` neurons.
      recurrent: convolve every layer's spikes with a recurrent kernel of the size `kernel`, which must be odd then.
      init, neuron, integrator, skip, remat_steps, dropout, trainable, rngs: as in `csnn`.

    Raises:
      ValueError: no network of that depth, or the image is too small for it.

    >>> import jax.numpy as jnp
    >>> from snnjax.nn import FluctuationDriven
    >>> network = csnn2d((32, 32, 2), 11, padding=2, init=FluctuationDriven(nu=9.2), rngs=nnx.Rngs(0))
    >>> readout, activity = network(jnp.ones((10, 1, 2048)))
    >>> readout.shape, [z.shape[2:] for z in activity.spikes]
    ((10, 1, 11), [(34, 34, 16), (36, 36, 16), (20, 20, 32), (22, 22, 32)])
    """
    if len(image) != 3:
        raise ValueError(f"image must be (height, width, channels), got {tuple(image)}")
    height, width, maps = (_check.integer("image", n, at_least=1) for n in image)
    if blocks is None:
        blocks = BLOCKS[_check.one_of("depth", depth, tuple(BLOCKS))]
    if not blocks or not all(blocks):
        raise ValueError(f"blocks must hold at least one block, each of at least one layer, got {blocks}")
    _check.integer("pool", pool, at_least=1)
    size: tuple[int, ...] = (height, width)
    stack: list[Any] = [Reshape(height, width, maps)]
    if sensory:
        stack.append(Sensory(maps, neuron=neuron))
    flat = []
    for k, block in enumerate(blocks):
        for n in block:
            layer = SpikingConv2d(
                maps, n, kernel_size=kernel, padding=padding, init=init, neuron=neuron, trainable=trainable, rngs=rngs,
                recurrent_kernel_size=kernel if recurrent else None,
            )  # fmt: skip
            size, maps = tuple(s or 0 for s in layer.out_shape(size)), n
            flat.append(math.prod(size) * maps)
            stack += [layer, *_drop(dropout)]
        if min(size) < pool:
            raise ValueError(
                f"image must be large enough to be pooled {len(blocks)} times, got {tuple(image)}: {size} is left in block {k}"
            )
        if pool > 1:
            stack.append(Pool(pool))
            size = tuple(s // pool for s in size)
    readout = Readout(sum(flat) if skip else math.prod(size) * maps, n_classes, neuron=integrator, rngs=rngs)
    return Sequential(*stack, Flatten(), readout, skip=skip, remat_steps=remat_steps)


def _drop(rate: float) -> list[Dropout]:
    """The layer, or none where it would do nothing."""
    return [Dropout(rate)] if rate else []
