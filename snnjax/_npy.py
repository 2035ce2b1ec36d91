"""The head of an array in numpy's .npy format, before anything that it claims is believed."""

from __future__ import annotations

import tokenize
from typing import Any

import numpy as np


def read_head(file: Any) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and dtype; `file` is then at the first number. numpy's own reader would allocate what the head claims.

    Raises:
      ValueError: not the head of an array of version 1 or 2 of the format.

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
