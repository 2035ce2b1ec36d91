"""A network's parameters in a plain file that other tools can read.

The file is NAME.npz or NAME.safetensors. It has one array per parameter, with names such as
`layers.0.kernel`. The final.npz and best.npz of a run folder are such files.
`snnjax/training/_params.py` has the formats.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from flax import nnx

from snnjax import _check
from snnjax._files import PathLike, write_whole
from snnjax.nn import Layer
from snnjax.training._params import (
    SUFFIXES,
    Described,
    encode_params,
    flatten_params,
    load_described,
)


def save_parameters(path: PathLike, network: nnx.Module, *, overwrite: bool = False) -> None:
    """Write all parameters (`nnx.Param`) of a network or any Flax module to a file.

    The file is written completely or not at all.

    Args:
        path: NAME.npz or NAME.safetensors. The latter needs the package safetensors.
        network: Module whose parameters are written.
        overwrite: Whether to replace an existing file.

    Raises:
        ValueError: The path has another suffix.
        FileExistsError: The file exists.
        ImportError: The package safetensors is not installed.

    >>> import tempfile
    >>> from snnjax.nn import FluctuationDriven, SpikingDense
    >>> init = FluctuationDriven(nu=50.0)
    >>> layer, other = (SpikingDense(4, 3, init=init, rngs=nnx.Rngs(seed)) for seed in (0, 1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_parameters(Path(folder, "layer.npz"), layer)
    ...     load_parameters(Path(folder, "layer.npz"), other)
    >>> bool((other.kernel[...] == layer.kernel[...]).all())
    True
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"path must end in {' or '.join(SUFFIXES)}, got {path}")
    content = encode_params(nnx.state(network, nnx.Param), path.suffix)
    write_whole(path, content, overwrite=overwrite)


def load_parameters(path: PathLike, network: nnx.Module) -> None:
    """Load the parameters of a file into a network of the same architecture.

    The network changes only if all parameters fit. If the file is of a calibrated network, its
    layers also get the steepness of their surrogates.

    Args:
        path: NAME.npz or NAME.safetensors.
        network: Module that gets the parameters.

    Raises:
        FileNotFoundError: The file does not exist.
        ImportError: The package safetensors is not installed.
        ValueError: The file is no such file, or its parameters are missing, superfluous, or of
            another shape or type. The message names the file and the parameter.

    Warns:
        UserWarning: Parameters are not finite, as in a network that diverged. The warning names
            the file and the parameters.
    """

    def prepared(found: Described) -> nnx.State:
        copy = nnx.clone(network)
        _hold_steepness(copy, {name: shape for name, (shape, _) in found.items()})
        return nnx.state(copy, nnx.Param)

    params = load_described(prepared, Path(path))
    arrays = flatten_params(params)
    if bad := [name for name, values in arrays.items() if not np.isfinite(values).all()]:
        _check.warn(f"{path}: some loaded parameters are not finite: {', '.join(bad)}")
    _hold_steepness(network, {name: values.shape for name, values in arrays.items()})
    nnx.update(network, params)


def _hold_steepness(network: nnx.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Call `hold_steepness` of each layer whose steepness is only in the file.

    Args:
        network: The network.
        shapes: Shapes of the parameters of the file, by name.
    """
    for path, layer in nnx.iter_modules(network):
        shape = shapes.get(".".join(map(str, (*path, "steepness"))))
        if not shape or not isinstance(layer, Layer) or layer.steepness is not None:
            continue
        layer.hold_steepness()
        if layer.steepness is not None and layer.steepness.shape[0] < shape[0]:
            layer.hold_steepness(scale=True)  # the file has a factor on h, too
