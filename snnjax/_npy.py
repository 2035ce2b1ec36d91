"""The header of an array in numpy's .npy format, read without trusting its content."""

from __future__ import annotations

import tokenize
from typing import IO, Any

import numpy as np


def read_head(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the header of an array.

    numpy's own reader would allocate memory for any shape that the header claims.

    Args:
        file: A file at the start of the header. It is then at the first number.

    Returns:
        The shape, whether the array is in Fortran order, and the dtype.

    Raises:
        ValueError: The file has no header of version 1 or 2 of the format.

    >>> import io
    >>> file = io.BytesIO()
    >>> np.save(file, np.zeros((2, 3)))
    >>> _ = file.seek(0)
    >>> read_head(file)
    ((2, 3), False, dtype('float64'))
    """
    try:
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"version {version} of the format")
        read = (
            np.lib.format.read_array_header_1_0
            if version == (1, 0)
            else np.lib.format.read_array_header_2_0
        )
        return read(file)
    except (
        ValueError,
        TypeError,
        SyntaxError,
        tokenize.TokenError,
        RecursionError,
        MemoryError,
    ) as error:
        raise ValueError(f"truncated or not a .npy file ({error})") from None
