"""Files that are written whole or not at all, and the folders of data."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

PathLike = str | os.PathLike[str]
"""A path of a file or a folder, as `pathlib.Path` takes it."""
SHD_FOLDERS = ("shd", "shd_format")
"""Usual names of a folder with files in the layout of the Spiking Heidelberg Digits."""


def folder_with(patterns: Sequence[str], root: Path, subfolders: Sequence[str]) -> Path | None:
    """Return the first folder with a file of one of the patterns; None if there is none.

    Args:
        patterns: Patterns of file names.
        root: The folder that is searched first.
        subfolders: Names of folders in it that are searched next.
    """
    folders = (root, *(root / name for name in subfolders))
    has_one = lambda folder: any(next(folder.glob(pattern), None) for pattern in patterns)
    return next(filter(has_one, folders), None)


@contextlib.contextmanager
def whole(path: Path, *, unique: bool = False) -> Iterator[BinaryIO]:
    """Open a temporary file that replaces `path` at the end of the block.

    At any moment, `path` is the old file or the complete new one, even if the machine crashes. If
    the block raises an error, the temporary file is removed and `path` stays as it was.

    Args:
        path: The file to write.
        unique: Whether the temporary file gets a random name, so that several processes may write
            the same file. Otherwise its name is `.NAME.tmp`.

    Yields:
        The temporary file, open for writing bytes.
    """
    infix = f".{uuid.uuid4().hex}" if unique else ""
    temporary = path.with_name(f".{path.name}{infix}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes, *, overwrite: bool = True) -> None:
    """Write a file by `whole`.

    Args:
        path: The file to write.
        content: Its new content.
        overwrite: Whether an existing file may be replaced.

    Raises:
        FileExistsError: `path` exists and `overwrite` is False.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_whole(Path(folder) / "a.txt", b"whole")
    ...     names = sorted(p.name for p in Path(folder).iterdir())
    ...     names, (Path(folder) / "a.txt").read_text()
    (['a.txt'], 'whole')
    """
    if not overwrite and path.exists():
        raise FileExistsError(f"{path} exists; overwrite=True replaces it")
    with whole(path) as file:
        file.write(content)
