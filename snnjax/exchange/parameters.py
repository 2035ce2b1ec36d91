"""A network's parameters as a plain file that other tools read: NAME.npz or NAME.safetensors, one array a parameter, named as in `layers.0.kernel`.

The final.npz and best.npz of a run folder are such files. `snnjax.training.params` has the formats.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from flax import nnx

from snnjax import _check
from snnjax._files import write_whole
from snnjax.training.params import SUFFIXES, encode_params, flatten_params, load_params


def save_parameters(
    path: str | os.PathLike[str], network: nnx.Module, *, overwrite: bool = False
) -> None:
    """Write all parameters (`nnx.Param`) of a network, or any Flax module, to a file, whole or not at all.

    Args:
      path: NAME.npz, or NAME.safetensors, which needs the package safetensors.   overwrite: replace a file that is there.

    Raises:
      ValueError: another suffix.   FileExistsError: there is a file.   ImportError: the package safetensors is not installed.

    >>> import tempfile
    >>> from snnjax.nn import FluctuationDriven, SpikingDense
    >>> layer, other = (SpikingDense(4, 3, init=FluctuationDriven(nu=50.0), rngs=nnx.Rngs(seed)) for seed in (0, 1))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_parameters(Path(folder, "layer.npz"), layer)
    ...     load_parameters(Path(folder, "layer.npz"), other)
    >>> bool((other.kernel[...] == layer.kernel[...]).all())
    True
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise ValueError(f"path must end in {' or '.join(SUFFIXES)}, got {path}")
    write_whole(
        path, encode_params(nnx.state(network, nnx.Param), path.suffix), overwrite=overwrite
    )


def load_parameters(path: str | os.PathLike[str], network: nnx.Module) -> None:
    """Put the parameters of a file into a network of the same architecture. The network changes only if all of them fit.

    Args:
      path: NAME.npz or NAME.safetensors.   network: gets the parameters.

    Raises:
      FileNotFoundError: no such file.   ImportError: the package safetensors is not installed.
      ValueError: not such a file, or one with parameters that are missing, superfluous, or of another shape or type; names the file and the parameter.

    Warns:
      UserWarning: parameters are not finite, as those of a network that diverged. Names the file
        and the parameters.
    """
    params = load_params(nnx.state(network, nnx.Param), Path(path))
    if bad := [
        name for name, values in flatten_params(params).items() if not np.isfinite(values).all()
    ]:
        _check.warn(f"{path}: parameters are loaded that are not finite: {', '.join(bad)}")
    nnx.update(network, params)
