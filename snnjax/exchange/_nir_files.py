"""NIR graphs in files: HDF5, as the package nir reads and writes them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from snnjax import _check
from snnjax._files import PathLike, write_whole
from snnjax.dynamics._neuron import Reset
from snnjax.exchange import _nir_convention as convention
from snnjax.exchange._nir_convention import Scheme
from snnjax.exchange._nir_export import to_nir
from snnjax.exchange._nir_import import from_nir
from snnjax.nn import Sequential

if TYPE_CHECKING:
    import h5py

_MOST_BYTES = 2**32  # of all arrays of a file
_DEEPEST = 8  # nested groups; files of the package nir have 4


def save_nir(
    path: PathLike,
    network: Sequential,
    *,
    features: Sequence[int] | None = None,
    scheme: Scheme = "exponential",
    overwrite: bool = False,
) -> None:
    """Write a network to a NIR file. The file is written completely or not at all.

    Args:
        path: Path of the file, usually NAME.nir.
        network: The network, as in `to_nir`.
        features: Shape of the network's input, as in `to_nir`.
        scheme: How a reader will step through time, as in `to_nir`.
        overwrite: Whether to replace an existing file.

    Raises:
        FileExistsError: The file exists.
        ValueError: The network cannot be written, as in `to_nir`.
        TypeError: An argument has another type, as in `to_nir`.
        ImportError: The package nir is not installed.

    >>> import tempfile
    >>> from flax import nnx
    >>> from snnjax.nn import FluctuationDriven, SpikingDense
    >>> network = Sequential(SpikingDense(4, 3, init=FluctuationDriven(nu=50.0), rngs=nnx.Rngs(0)))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_nir(Path(folder, "network.nir"), network)
    ...     back = load_nir(Path(folder, "network.nir"))
    >>> bool((back.layers[0].kernel[...] == network.layers[0].kernel[...]).all())
    True
    """
    path = Path(path)
    nir = convention.import_nir()
    buffer = io.BytesIO()
    nir.write(buffer, to_nir(network, features=features, scheme=scheme))
    write_whole(path, buffer.getvalue(), overwrite=overwrite)


def load_nir(
    path: PathLike,
    *,
    dt: float | None = None,
    scheme: Scheme | None = None,
    reset: Reset | None = None,
) -> Sequential:
    """Read a network from a NIR file.

    Args:
        path: Path of the file.
        dt: Time step of the network, s, as in `from_nir`.
        scheme: How the graph's writer steps through time, as in `from_nir`.
        reset: Reset of neurons where the graph leaves it open, as in `from_nir`.

    Returns:
        The network, as `from_nir` returns it.

    Raises:
        FileNotFoundError: The file does not exist.
        ValueError: The file is damaged, is no NIR file, or has something that snnjax does not
            support. The message names the file and, for a readable graph, the node.
        TypeError: An argument or a value in the graph has a wrong type.
        ImportError: The package nir is not installed.

    Sizes and links are checked before any array is read. The HDF5 library itself is not safe
    against malicious files. Read untrusted files in a separate process.
    """
    nir = convention.import_nir()
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        for name, node in _nodes(path).items():
            with _check.at(f"node {name!r} ({node.get('type')})"):
                nir.dict2NIRNode(node)  # nir.read would not say which node is wrong
        graph = nir.read(path, type_check=False)  # from_nir checks more
    except Exception as error:  # damaged files cause errors of many types in h5py and nir
        reason = str(error) or type(error).__name__
        raise ValueError(f"{path}: not a readable NIR file: {reason}") from None
    with _check.at(str(path)):
        return from_nir(graph, dt=dt, scheme=scheme, reset=reset)


def _nodes(path: Path) -> dict[str, Any]:
    """Return the fields of each node of a file, as nir reads them.

    Raises:
        ValueError: The file has links, external data, too deep groups, or too large arrays.
    """
    import h5py
    from nir.serialization import hdf2dict

    with h5py.File(path, "r") as file:
        groups: list[tuple[h5py.Group, int]] = [(file, 0)]
        total = 0
        while groups:
            group, depth = groups.pop()
            if depth > _DEEPEST:
                raise ValueError(f"its groups are nested more than {_DEEPEST} deep")
            for name in group:
                if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                    raise ValueError(f"{group.name}/{name} is a link")
                item = group[name]
                if isinstance(item, h5py.Group):
                    groups.append((item, depth + 1))
                elif isinstance(item, h5py.Dataset):
                    if item.is_virtual or item.external:
                        raise ValueError(f"{item.name} has its data in another file")
                    chunk = max(item.chunks or (0,)) * item.dtype.itemsize
                    total += item.nbytes if item.shape is not None else 0
                    if max(total, chunk) > _MOST_BYTES:
                        raise ValueError(f"its arrays have more than {_MOST_BYTES:,} bytes")
        return hdf2dict(file["node"]).get("nodes", {})
