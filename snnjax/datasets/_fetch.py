"""Find folders, download a file, or extract a file from a zip archive.

What is downloaded or extracted is complete or absent. Bytes are written to a temporary file
`.NAME.RANDOM.tmp` in the same folder (`snnjax._files.whole`). It is renamed only after all checks,
and removed if a check fails.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import struct
import urllib.request
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from snnjax._files import PathLike, whole

BLOCK = 2**20
# what zipfile raises for a damaged archive
_DAMAGED = zipfile.BadZipFile, zlib.error, struct.error, EOFError, RuntimeError, OverflowError


def check_folder(folder: PathLike) -> Path:
    """Return the path of a folder, or raise a FileNotFoundError if there is none."""
    path = Path(folder)
    if not path.is_dir():
        wrong = "not a folder; give its parent folder" if path.exists() else "no such folder"
        raise FileNotFoundError(f"{path}: {wrong}")
    return path


def names_in(folder: Path, pattern: str = "*") -> list[str]:
    """Return the names of files in a folder, at most 20, for messages."""
    return sorted(path.name for path in folder.glob(pattern))[:20]


def fetch(url: str, path: Path, *, md5: str, max_bytes: int, timeout: float = 60.0) -> Path:
    """Download a file unless a file with the same MD5 exists.

    MD5 detects damage, not malice: do not trust the content.

    Args:
        url: Address with the scheme https, http or file.
        path: Where to write the file.
        md5: Expected MD5 of the file, hexadecimal.
        max_bytes: Longer files are refused.
        timeout: Time limit for the connection and for each block, s.

    Returns:
        `path`.

    Raises:
        ValueError: The scheme is another one, the file is too long, or its MD5 differs.
        OSError: The server cannot be reached, refuses, or stops before the end.
    """
    if not url.startswith(("https://", "http://", "file://")):
        raise ValueError(f"url must begin with https://, http:// or file://, got {url!r}")
    if path.is_file():
        with path.open("rb") as f:
            if hashlib.file_digest(f, _md5).hexdigest() == md5:
                return path
    path.parent.mkdir(parents=True, exist_ok=True)
    size, digest = 0, _md5()
    with whole(path, unique=True) as out:
        try:
            with urllib.request.urlopen(url, timeout=timeout) as response:
                promised = response.headers.get("Content-Length") or ""
                while block := response.read(BLOCK):
                    size += len(block)
                    if size > max_bytes:
                        raise ValueError(f"{url}: must be at most {max_bytes} bytes, and is longer")
                    digest.update(block)
                    out.write(block)
        except (OSError, http.client.HTTPException) as error:  # of urllib's too
            reason = f"{type(error).__name__}: {error}"
            raise OSError(f"{url}: cannot be downloaded ({reason})") from error
        if promised.isdecimal() and size < int(promised):
            got = f"{size} of {promised} bytes"
            raise OSError(f"{url}: the connection ended after {got}; try again")
        if digest.hexdigest() != md5:
            got = f"{digest.hexdigest()} ({size} bytes)"
            raise ValueError(f"{url}: MD5 must be {md5}, got {got}; the file was not kept")
    return path


def unpack(archive: Path, member: str, path: Path, *, max_bytes: int) -> Path:
    """Extract one file of a zip archive unless an equal file exists.

    Nothing else in the archive is written to the disk.

    Args:
        archive: The zip file.
        member: Name of the file in the archive.
        path: Where to write the file.
        max_bytes: Larger files are refused.

    Returns:
        `path`.

    Raises:
        ValueError: The archive is damaged, does not contain the file, contains a path outside the
            archive, or the file is larger than `max_bytes`. The message names the archive.
    """
    with open_zip(archive) as z:
        names = z.namelist()
        for name in names:
            # ZipFile has turned backslashes into slashes on Windows only
            parts = PurePosixPath(name.replace("\\", "/"))
            if parts.is_absolute() or ".." in parts.parts or ":" in name:
                raise ValueError(f"must contain no path outside the archive, got {name!r}")
        if names.count(member) != 1:
            raise ValueError(f"must contain one file {member!r}, got {names[:20]}")
        info = z.getinfo(member)
        _check_member(info, max_bytes)
        if path.is_file() and path.stat().st_size == info.file_size and _crc32(path) == info.CRC:
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with z.open(info) as source, whole(path, unique=True) as out:
            # never gives more than file_size bytes, and ends with a check of the CRC
            while block := source.read(BLOCK):
                out.write(block)
            _check_length(info, out.tell())
    return path


@contextlib.contextmanager
def open_zip(archive: Path) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive for reading, as a context manager.

    Args:
        archive: The zip file.

    Yields:
        The open archive.

    Raises:
        ValueError: The archive is damaged, or a ValueError was raised inside the block. The message
            names the archive.
    """
    try:
        with zipfile.ZipFile(archive) as z:
            yield z
    except ValueError as error:
        raise ValueError(f"{archive}: {error}") from error
    except (*_DAMAGED, OSError) as error:
        # EINVAL: the archive points before its own begin. Other OSErrors come from the disk.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        reason = f"{type(error).__name__}: {error}"
        raise ValueError(f"{archive}: truncated or damaged zip archive ({reason})") from error


def read_member(z: zipfile.ZipFile, info: zipfile.ZipInfo, *, max_bytes: int) -> bytes:
    """Return the content of a file in an archive, with its checksum verified.

    Args:
        z: The open archive.
        info: Description of the file.
        max_bytes: Larger files are refused.

    Raises:
        ValueError: The file is too large, encrypted, compressed by another method than deflate, or
            not as long as its description says.
    """
    _check_member(info, max_bytes)
    with z.open(info) as file:
        # without a size, zipfile would first expand the whole block
        content = file.read(info.file_size)
    _check_length(info, len(content))
    return content


def _check_member(info: zipfile.ZipInfo, max_bytes: int) -> None:
    name = repr(info.filename)
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        got = f"method {info.compress_type}, flags {info.flag_bits}"
        raise ValueError(f"{name} must be stored or deflated and not encrypted, got {got}")
    if info.file_size > max_bytes:
        raise ValueError(f"{name} must be at most {max_bytes} bytes, got {info.file_size}")


def _check_length(info: zipfile.ZipInfo, length: int) -> None:
    if length != info.file_size:
        raise ValueError(f"{info.filename!r} must have {info.file_size} bytes, got {length}")


def _md5() -> hashlib._Hash:
    return hashlib.md5(usedforsecurity=False)


def _crc32(path: Path) -> int:
    crc = 0
    with path.open("rb") as f:
        while block := f.read(BLOCK):
            crc = zlib.crc32(block, crc)
    return crc
