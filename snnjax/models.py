"""The paper's networks: tables of their layers, and a function that builds a network from a table.

An entry of a table is a number for a dense layer, a `Conv` for a convolution, or a `Pool` for
pooling. All networks end in a readout of leaky integrators.

Rossbroich, Gygax & Zenke (2022), doi 10.1088/2634-4386/ac97bb: the three-layer convolutional
network for 700 units has 16, 32 and 64 feature maps, kernels 21, 7 and 7, strides 10, 3 and 3, no
padding, and recurrent kernels of 5. The paper also has networks with 1, 7 and 10 layers, with
further layers of stride 1. Our choice is the number of layers of each width. The network with one
layer has only the first one. With 7 layers, one further layer of the same width and size follows
each of the three (two after the third). With 10 layers, two follow each (three after the third).

Images and event cameras: blocks of two convolutions, 3 x 3, stride 1, and 2 x 2 max-pooling of
their spikes, with 16 and then 32 feature maps; event cameras with padding 2 and no recurrence. The
width of a third and fourth block (64) and the padding of static images (same size) are our choice.

Dale's law: dense layers (128 excitatory, 32 inhibitory neurons in the paper) and convolutions over
one axis. Our choices are the ratio of 4 in every layer, the size of the recurrent kernel for
inhibition, and a readout whose weights have both signs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, Required, Unpack

from snnjax import _check, nn
from snnjax.dynamics import LIF, LeakyIntegrator
from snnjax.initializers import Initializer
from snnjax.nn._conv import Padding
from snnjax.nn._dalian import DalianOptions
from snnjax.nn._synaptic import LayerOptions

__all__ = ["dense", "csnn", "csnn2d", "build"]

RECURRENT_KERNEL = 5


class Conv(NamedTuple):
    """A convolutional layer.

    Attributes:
        maps: Feature maps.
        kernel: Size of the kernel on each axis.
        stride: Stride on each axis.
        padding: As in `SpikingConv`.
        lateral: Size of the kernel for the layer's own spikes, if the layer is recurrent.
    """

    maps: int
    kernel: int
    stride: int = 1
    padding: Padding = "valid"
    lateral: int = RECURRENT_KERNEL


_FIRST, _SECOND, _THIRD = Conv(16, 21, 10), Conv(32, 7, 3), Conv(64, 7, 3)
# the kernels are not much larger than the number of positions: 68, 21 and 5
_AFTER = {
    16: Conv(16, 7, padding="same"),
    32: Conv(32, 7, padding="same"),
    64: Conv(64, 3, padding="same"),
}
CSNN: dict[int, tuple[Conv, ...]] = {
    1: (_FIRST,),
    3: (_FIRST, _SECOND, _THIRD),
    7: (_FIRST, _AFTER[16], _SECOND, _AFTER[32], _THIRD, _AFTER[64], _AFTER[64]),
    10: (_FIRST, *[_AFTER[16]] * 2, _SECOND, *[_AFTER[32]] * 2, _THIRD, *[_AFTER[64]] * 3),
}
BLOCKS: dict[int, tuple[tuple[int, ...], ...]] = {
    2: ((16, 16),),
    4: ((16, 16), (32, 32)),
    6: ((16, 16), (32, 32), (64, 64)),
    8: ((16, 16), (32, 32), (64, 64), (64, 64)),
}
"""Feature maps of `csnn2d`, block by block; the key is the number of layers."""


class HiddenOptions(LayerOptions, total=False):
    """Options of all hidden layers of a network.

    Attributes:
        init: Initialization of every hidden layer, as in `SpikingDense` or `DalianDense`; required.
        recurrent: Whether every hidden layer is recurrent.
        ei_ratio: Excitatory neurons per inhibitory neuron. The layers then obey Dale's law, and
            their sizes are those of the excitatory populations. None: no Dale's law.
    """

    init: Required[nn.LayerInit | Initializer]
    recurrent: bool
    ei_ratio: float | None


class NetworkOptions(HiddenOptions, total=False):
    """Options of a network; see `build`.

    Attributes:
        readout_neuron: The readout's `LeakyIntegrator`.
        sensory: Whether the input is pixel values, or the model of the sensory neurons.
        skip: As in `Sequential`.
        remat_steps: As in `Sequential`.
        dropout: Rate of `Dropout` after each hidden layer; 0: none.
    """

    readout_neuron: LeakyIntegrator | None
    sensory: bool | LIF
    skip: bool
    remat_steps: int | None
    dropout: float


def build(
    layers: Sequence[int | Conv | nn.Pool],
    features: Sequence[int],
    num_classes: int,
    *,
    readout_neuron: LeakyIntegrator | None = None,
    sensory: bool | LIF = False,
    skip: bool = False,
    remat_steps: int | None = None,
    dropout: float = 0.0,
    **options: Unpack[HiddenOptions],
) -> nn.Sequential:
    """Build a network of the given layers and a readout.

    Args:
        layers: A number of units for each dense layer, a `Conv` for each convolution, a `Pool` for
            each pooling.
        features: Shape of the input's features, (*spatial, channels) or (units,). The input may be
            flattened.
        num_classes: Units of the readout.
        readout_neuron: The readout's `LeakyIntegrator`.
        sensory: Whether the input is pixel values; the first layer is then `Sensory`. True gives it
            the neurons of the hidden layers, which must be `LIF`; another `LIF` replaces them.
        skip: As in `Sequential`.
        remat_steps: As in `Sequential`.
        dropout: Rate of `Dropout` after each hidden layer; 0: none.
        **options: Options of every hidden layer. `init`: the initialization of its weights, as in
            `SpikingDense` or `DalianDense`. `neuron`, `trainable`, `norm`, `delays`, `dtype`,
            `rngs`: as in `SpikingDense`. `bias`: as in `SpikingDense`, also for the readout.
            `recurrent`: whether it is recurrent. `ei_ratio`: excitatory neurons per inhibitory
            neuron; the layers then obey Dale's law, and their sizes are those of the excitatory
            populations.

    Returns:
        The network.

    Raises:
        ValueError: There is no layer, or the input is too small for a layer.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> from snnjax.nn import FluctuationDriven, Pool
    >>> table = (Conv(4, kernel=3, padding="same"), Pool(2), 32)
    >>> network = build(table, (8, 8, 2), 10, init=FluctuationDriven(nu=5.0), rngs=nnx.Rngs(0))
    >>> [type(layer).__name__ for layer in network.layers]
    ['Reshape', 'SpikingConv2d', 'Pool', 'Flatten', 'SpikingDense', 'Readout']
    """
    if not layers:
        raise ValueError("layers must hold at least one layer, got none")
    given: tuple[int, ...] = tuple(features)
    shape: tuple[int, ...] = given
    stack: list[nn.Layer] = [nn.Reshape(*given)] if len(given) > 1 else []
    if sensory:
        stack = stack or [nn.Flatten()]
        neuron = sensory if isinstance(sensory, LIF) else options.get("neuron")
        # Sensory checks the type
        stack.append(nn.Sensory(shape[-1], neuron=neuron))  # type: ignore[arg-type]
    sizes = []
    for of in layers:
        if not isinstance(of, Conv | nn.Pool) and shape[1:]:
            stack.append(nn.Flatten())
            shape = (math.prod(shape),)
        if isinstance(of, nn.Pool):
            layer, what = of, f"the pooling after layer {len(sizes)}, whose window is {of.window}"
        else:
            layer, what = _hidden(of, shape, **options), f"layer {len(sizes) + 1}"
            what += f", whose kernel is {of.kernel}" if isinstance(of, Conv) else ""
        stack.append(layer)
        shape = _after(what, layer, shape, given)
        if layer.spiking:
            sizes.append(math.prod(shape))
            stack += [nn.Dropout(dropout)] if dropout else []
    if len(shape) > 1:
        stack.append(nn.Flatten())
    in_features = sum(sizes) if skip else math.prod(shape)
    ends = {"bias": options.get("bias", False), "rngs": options["rngs"]}
    readout = nn.Readout(in_features, num_classes, neuron=readout_neuron, **ends)
    return nn.Sequential(*stack, readout, skip=skip, remat_steps=remat_steps)


def _hidden(
    of: int | Conv,
    below: Sequence[int],
    init: nn.LayerInit | Initializer,
    recurrent: bool = False,
    ei_ratio: float | None = None,
    **options: Unpack[LayerOptions],
) -> nn.Layer:
    """A hidden layer for an input with features of the shape `below`."""
    dale: DalianOptions = {"recurrent": recurrent, **options}
    if ei_ratio is not None:
        dale["ei_ratio"] = ei_ratio
    if not isinstance(of, Conv):
        if ei_ratio is not None:
            return nn.DalianDense(below[-1], of, init=init, **dale)
        return nn.SpikingDense(below[-1], of, init=init, recurrent=recurrent, **options)
    sizes, axes = (below[-1], of.maps), len(below) - 1
    window = {"kernel_size": of.kernel, "stride": of.stride, "padding": of.padding}
    if ei_ratio is not None:
        convolution = (nn.DalianConv1d, nn.DalianConv2d)[axes - 1]
        return convolution(*sizes, **window, lateral_kernel_size=of.lateral, init=init, **dale)
    convolution = (nn.SpikingConv1d, nn.SpikingConv2d)[axes - 1]
    own = of.lateral if recurrent else None
    return convolution(*sizes, **window, recurrent_kernel_size=own, init=init, **options)


def _after(
    what: str, layer: nn.Layer, shape: tuple[int, ...], given: tuple[int, ...]
) -> tuple[int, ...]:
    """The shape of the features after a layer. An error names the user's argument.

    Args:
        what: What the layer is.
        layer: The layer.
        shape: Shape of its input's features.
        given: The shape that the user gave.
    """
    try:
        return layer.feature_shape(shape)  # type: ignore[return-value]  # all sizes are known
    except ValueError as error:
        name, size, left = "image", given, shape[:-1]
        if len(given) == 2:
            name, size, left = "in_features", given[0], shape[0]
        needed = f"{name} must be enough for {what}"
        raise ValueError(f"{needed}, got {size}: {left} positions are left") from error


def dense(
    in_features: int, num_classes: int, *, hidden: Sequence[int], **options: Unpack[NetworkOptions]
) -> nn.Sequential:
    """Build a network of dense spiking layers.

    Args:
        in_features: Units of the input.
        num_classes: Units of the readout.
        hidden: Number of neurons of each layer, at least one layer.
        **options: As in `build`.

    Returns:
        The network.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> from snnjax.nn import FluctuationDriven
    >>> options = {"init": FluctuationDriven(nu=5.0), "rngs": nnx.Rngs(0)}
    >>> network = dense(20, 10, hidden=(64, 32), skip=True, **options)
    >>> network(jnp.ones((50, 2, 20)))[0].shape, network.layers[-1].in_features
    ((50, 2, 10), 96)

    The paper's network with Dale's law has one recurrent layer of 128 excitatory and 32 inhibitory
    neurons. The readout receives only the spikes of excitatory neurons, through weights of both
    signs:

    >>> from snnjax.nn import DalianFluctuationDriven
    >>> options = {"init": DalianFluctuationDriven(nu=15.8), "rngs": nnx.Rngs(0)}
    >>> network = dense(700, 20, hidden=(128,), ei_ratio=4.0, recurrent=True, **options)
    >>> readout, activity = network(jnp.ones((10, 2, 700)))
    >>> readout.shape, activity.spikes[0].shape, network.layers[-1].in_features
    ((10, 2, 20), (10, 2, 160), 128)
    """
    if not hidden:
        raise ValueError("hidden must name at least one layer, got none")
    return build(hidden, (in_features,), num_classes, **options)


def csnn(
    in_features: int, num_classes: int, *, depth: int = 3, **options: Unpack[NetworkOptions]
) -> nn.Sequential:
    """Build a network of spiking convolutions over one axis of input units.

    The input is (time, batch, in_features).

    Args:
        in_features: Units of the input.
        num_classes: Units of the readout.
        depth: Number of layers, a key of `CSNN`: 1, 3, 7 or 10.
        **options: As in `build`; the layers are recurrent unless `recurrent` is False. Trained time
            constants have one value per feature map.

    Returns:
        The network.

    Raises:
        ValueError: There is no network of this depth, or the input is too short for it.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> from snnjax.nn import FluctuationDriven
    >>> network = csnn(700, 20, depth=7, init=FluctuationDriven(nu=15.8), rngs=nnx.Rngs(0))
    >>> readout, activity = network(jnp.ones((10, 1, 700)))
    >>> readout.shape, [z.shape[2:] for z in activity.spikes]
    ((10, 1, 20), [(68, 16), (68, 16), (21, 32), (21, 32), (5, 64), (5, 64), (5, 64)])

    With Dale's law, the feature maps of `CSNN` are excitatory. Each layer also has inhibitory ones:

    >>> from snnjax.nn import DalianFluctuationDriven
    >>> options = {"init": DalianFluctuationDriven(nu=15.8), "rngs": nnx.Rngs(0)}
    >>> network = csnn(700, 20, ei_ratio=4.0, **options)
    >>> readout, activity = network(jnp.ones((10, 1, 700)))
    >>> readout.shape, [z.shape[2:] for z in activity.spikes], network.layers[-1].in_features
    ((10, 1, 20), [(68, 20), (21, 40), (5, 80)], 320)
    """
    _check.integer("in_features", in_features, at_least=1)
    table = CSNN[_check.one_of("depth", depth, tuple(CSNN))]
    options.setdefault("recurrent", True)
    return build(table, (in_features, 1), num_classes, **options)


def csnn2d(
    image: Sequence[int],
    num_classes: int,
    *,
    depth: int = 4,
    blocks: Sequence[Sequence[int]] | None = None,
    kernel: int = 3,
    padding: Padding = "same",
    pool: int = 2,
    **options: Unpack[NetworkOptions],
) -> nn.Sequential:
    """Build a network of spiking convolutions and pooling, for images or event cameras.

    The input is (time, batch, height, width, channels), or flattened.

    Args:
        image: Height, width and channels.
        num_classes: Units of the readout.
        depth: Number of layers, a key of `BLOCKS`: 2, 4, 6 or 8.
        blocks: Your own table instead of one of `BLOCKS`: the feature maps of the layers of each
            block.
        kernel: Size of every convolution and, with recurrence, of every recurrent kernel. It must
            then be odd.
        padding: Padding of every convolution.
        pool: Window of the max-pooling after each block; 1: no pooling.
        **options: As in `build`.

    Returns:
        The network.

    Raises:
        ValueError: There is no network of this depth, or the image is too small for it.

    >>> import jax.numpy as jnp
    >>> from flax import nnx
    >>> from snnjax.nn import FluctuationDriven
    >>> options = {"init": FluctuationDriven(nu=9.2), "rngs": nnx.Rngs(0)}
    >>> network = csnn2d((32, 32, 2), 11, padding=2, **options)
    >>> readout, activity = network(jnp.ones((10, 1, 2048)))
    >>> readout.shape, [z.shape[2:] for z in activity.spikes]
    ((10, 1, 11), [(34, 34, 16), (36, 36, 16), (20, 20, 32), (22, 22, 32)])
    """
    if len(image) != 3:
        raise ValueError(f"image must be (height, width, channels), got {tuple(image)}")
    sizes = [_check.integer("image", n, at_least=1) for n in image]
    if blocks is None:
        blocks = BLOCKS[_check.one_of("depth", depth, tuple(BLOCKS))]
    if not blocks or not all(blocks):
        needed = "blocks must hold at least one block, each of at least one layer"
        raise ValueError(f"{needed}, got {blocks}")
    _check.integer("pool", pool, at_least=1)
    table: list[Conv | nn.Pool] = []
    for block in blocks:
        table += [Conv(n, kernel, padding=padding, lateral=kernel) for n in block]
        table += [nn.Pool(pool)] if pool > 1 else []
    return build(table, sizes, num_classes, **options)
