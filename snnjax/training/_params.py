"""Parameters by name: conversion between a pytree of arrays and a flat dict, and files of it.

    NAME.npz            archive of numpy, one entry per parameter. numpy has no bfloat16; such
                        arrays are stored as raw 2-byte values
    NAME.safetensors    the same names; needs the package safetensors

Neither format contains code. The names, shapes and types in a file are compared with the expected
ones before an array is read. A float32 parameter also takes float16 numbers, which lose nothing.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from snnjax import _check, _extras
from snnjax._npy import read_head
from snnjax._pytree import PyTree

T = TypeVar("T")
SUFFIXES = (".npz", ".safetensors")
# names of types in safetensors
_TENSORS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16}
Described = Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]


def flatten_params(params: PyTree) -> dict[str, np.ndarray]:
    """A pytree of arrays as {path: array}. The parts of a path are joined by dots.

    >>> sorted(flatten_params({"layers": [{"kernel": np.zeros(2)}]}))
    ['layers.0.kernel']
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {
        jax.tree_util.keystr(path, simple=True, separator=".").removesuffix(".value"): np.asarray(a)
        for path, a in leaves
    }


def unflatten_params(like: T, arrays: Mapping[str, np.ndarray]) -> T:
    """The inverse of `flatten_params`.

    Args:
        like: A pytree of arrays with the structure, shapes and types of the result.
        arrays: The values, {path: array}.

    Returns:
        A pytree with the structure of `like` and the values of `arrays`.

    Raises:
        ValueError: A name is missing or unexpected, or a shape or type differs.
    """
    expected = flatten_params(like)
    _compare(expected, {name: (a.shape, a.dtype) for name, a in arrays.items()})
    leaves = [_as(arrays[name], leaf.dtype) for name, leaf in expected.items()]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def encode_params(params: PyTree, suffix: str) -> bytes:
    """The content of a parameter file.

    Args:
        params: A pytree of arrays.
        suffix: The format, one of `SUFFIXES`.

    Returns:
        The bytes of the file.

    Raises:
        ValueError: The suffix is not one of `SUFFIXES`.
        ImportError: The package safetensors is not installed.
    """
    arrays = flatten_params(params)
    if _check.one_of("suffix", suffix, SUFFIXES) == ".safetensors":
        return _safetensors("safetensors.numpy").save(
            {name: np.ascontiguousarray(a) for name, a in arrays.items()}
        )
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # pyright: ignore[reportArgumentType]
    return buffer.getvalue()


def load_params(like: T, file: Path) -> T:
    """Read a file of parameters.

    Args:
        like: A pytree of arrays with the structure of the result, for example
            `nnx.state(network, nnx.Param)`.
        file: The file; its suffix is one of `SUFFIXES`.

    Returns:
        A pytree with the structure of `like` and the values of the file.

    Raises:
        FileNotFoundError: The file does not exist.
        ImportError: The package safetensors is not installed.
        ValueError: The file is not a parameter file, or it belongs to another network. The text
            gives the file and the parameters that are missing, unexpected or different.
    """
    return load_described(lambda _: like, file)


def load_described(like: Callable[[Described], T], file: Path) -> T:
    """`load_params` for a pytree that depends on the names, shapes and types in the file."""
    file = Path(file)
    suffix = _check.one_of("suffix of the file", file.suffix, SUFFIXES)
    expected: list[T] = []

    def check(found: Described) -> None:
        expected.append(like(found))
        _compare(flatten_params(expected[0]), found)

    try:
        read = _read_safetensors if suffix == ".safetensors" else _read_npz
        arrays = read(file, check)
    except (FileNotFoundError, ImportError):
        raise
    except _MismatchError as error:
        raise ValueError(f"{file}: {error}") from None
    # damaged files raise errors of zipfile, zlib, numpy, safetensors and the system
    except Exception as error:
        raise ValueError(f"{file} is not a readable parameter file: {error}") from error
    return unflatten_params(expected[0], arrays)


HOLD = "call layer.hold_steepness() for each spiking layer of the new network first"
"""What a network needs before it takes the parameters of a calibrated network."""
_CALIBRATED = (
    "the file is of a network whose gradient was calibrated: the spike function of its neurons "
    "must have a steepness, as snnjax.surrogate.superspike(20.0) has"
)
_OPTION_OF = {
    "recurrent_kernel": "recurrent=True",
    "bias": "bias=True",
    "norm": "norm=BatchNorm()",
    "delay": "delays=Delays(...)",
    "recurrent_delay": "delays=Delays(...)",
    "log_tau": "trainable=(...)",
    "free": "trainable=(...)",
}
"""The option of a layer that adds a parameter, by a part of its name."""


class _MismatchError(ValueError):
    """The parameters belong to another network."""


def _compare(expected: Mapping[str, np.ndarray], found: Described) -> None:
    """Raise unless names, shapes and types are the same."""
    missing, extra = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or extra:
        parts = ["the parameters do not fit the network"]
        parts += [f"the file has no {', '.join(missing)}"] if missing else []
        parts += [f"the network has no {', '.join(extra)}"] if extra else []
        raise _MismatchError("; ".join(parts + _advice(missing, extra)))
    for name, leaf in expected.items():
        shape, dtype = found[name]
        if leaf.shape != shape:
            raise _MismatchError(f"parameter {name} must have shape {leaf.shape}, got {shape}")
        # numpy writes types that it does not have, such as bfloat16, as raw bytes
        raw = dtype.kind == leaf.dtype.kind == "V" and dtype.names is None
        raw &= dtype.itemsize == leaf.dtype.itemsize
        widened = leaf.dtype == np.float32 and dtype.newbyteorder("=") == np.float16
        if leaf.dtype != dtype.newbyteorder("=") and not raw and not widened:
            raise _MismatchError(f"parameter {name} must have dtype {leaf.dtype}, got {dtype}")


def _advice(missing: Sequence[str], extra: Sequence[str]) -> list[str]:
    """What to change in the network, in sentences without a full stop."""
    parts = lambda names: {part for name in names for part in name.split(".")}
    options = lambda names: sorted({_OPTION_OF[p] for p in parts(names) if p in _OPTION_OF})
    more, less = options(extra), options(missing)
    found = [f"build its layers with {', '.join(more)}"] if more and more != less else []
    found += [f"build its layers without {', '.join(less)}"] if less and more != less else []
    return [*found, *([_CALIBRATED] if any(n.endswith("steepness") for n in extra) else [])]


def _as(a: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    if a.dtype == dtype:
        return a
    # the type differs only in its byte order, or has 16 bits
    return a.view(dtype) if a.dtype.kind == "V" else a.astype(dtype)


def _read_npz(file: Path, check: Callable[[Described], None]) -> dict[str, np.ndarray]:
    found: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
        if len(entries) < len(archive.infolist()):
            raise ValueError("a parameter occurs twice")
        for name, entry in entries.items():
            with archive.open(entry) as member:
                shape, _, dtype = read_head(member)
            if dtype.hasobject:
                raise ValueError(f"{name} contains Python objects")
            found[name] = shape, dtype
        check(found)
        arrays = {}
        for name, entry in entries.items():
            with archive.open(entry) as member:
                arrays[name] = np.lib.format.read_array(member, allow_pickle=False)
    return arrays


def _read_safetensors(file: Path, check: Callable[[Described], None]) -> dict[str, np.ndarray]:
    # the format has no compression, so that the size of the file limits the memory
    tensors = dict(_safetensors("safetensors").deserialize(file.read_bytes()))
    if unknown := sorted({t["dtype"] for t in tensors.values()} - _TENSORS.keys()):
        hint = f"parameters are {sorted(_TENSORS)}"
        raise ValueError(f"it contains numbers of the types {unknown}; {hint}")
    found = {
        name: (tuple(t["shape"]), np.dtype(_TENSORS[t["dtype"]])) for name, t in tensors.items()
    }
    check(found)
    return {
        name: np.frombuffer(t["data"], found[name][1]).reshape(t["shape"])
        for name, t in tensors.items()
    }


def _safetensors(module: str) -> Any:
    return _extras.package(module, "safetensors", "a .safetensors file")
