"""A file from the network, and a file out of a zip archive: whole and checked at its place, or not there at all.

Bytes go to a file `.NAME.RANDOM.part` beside it that takes its name only once everything is right, and is removed when anything is not.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import http.client
import os
import struct
import urllib.request
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

BLOCK = 2**20


def fetch(url: str, path: Path, *, md5: str, max_bytes: int, timeout: float = 60.0) -> Path:
    """Download `url` (https, http or file) to `path`, unless a file with this MD5 is there. MD5 finds damage, not malice: trust nothing inside.

    Args:
      max_bytes: longer files are refused.   timeout: for the connection and each block, s.

    Raises:
      ValueError: another scheme, too long, or another MD5.   OSError: the server is out of reach, refuses, or stops in the middle.
    """
    if not url.startswith(("https://", "http://", "file://")):
        raise ValueError(f"url must begin with https://, http:// or file://, got {url!r}")
    if path.is_file():
        with path.open("rb") as f:
            if hashlib.file_digest(f, _md5).hexdigest() == md5:
                return path
    path.parent.mkdir(parents=True, exist_ok=True)
    size, digest = 0, _md5()
    with _whole(path) as out, contextlib.ExitStack() as stack:
        with _network(url):
            response = stack.enter_context(urllib.request.urlopen(url, timeout=timeout))
            promised = response.headers.get("Content-Length")
        while True:
            with _network(url):
                block = response.read(BLOCK)
            if not block:
                break
            size += len(block)
            if size > max_bytes:
                raise ValueError(f"{url}: must be at most {max_bytes} bytes, and is longer")
            digest.update(block)
            out.write(block)
        if promised is not None and promised.isdecimal() and size < int(promised):
            raise OSError(
                f"{url}: the connection ended after {size} of {promised} bytes; try again"
            )
        if digest.hexdigest() != md5:
            raise ValueError(
                f"{url}: MD5 must be {md5}, got {digest.hexdigest()} ({size} bytes); the file was not kept"
            )
    return path


def unpack(archive: Path, member: str, path: Path, *, max_bytes: int) -> Path:
    """The one file `member` of a zip `archive`, written to `path` unless the same is there. Nothing else in the archive is written anywhere.

    Raises:
      ValueError: it is damaged, holds no such file or another path outside, or the file would be larger than `max_bytes`; names the archive.
    """
    with open_zip(archive) as z:
        _unpack(z, member, path, max_bytes)
    return path


@contextlib.contextmanager
def open_zip(archive: Path) -> Iterator[zipfile.ZipFile]:
    """A zip archive to read from.

    Args:
      archive: the file.

    Raises:
      ValueError: it is damaged, or an error inside the block. Names the archive.
    """
    try:
        with zipfile.ZipFile(archive) as z:
            yield z
    except ValueError as error:
        raise ValueError(f"{archive}: {error}") from error
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        EOFError,
        RuntimeError,
        OverflowError,
        OSError,
    ) as error:
        if (
            isinstance(error, OSError) and error.errno != errno.EINVAL
        ):  # EINVAL: the archive points before its own begin; others are the disk's
            raise
        raise ValueError(
            f"{archive}: truncated or damaged zip archive ({type(error).__name__}: {error})"
        ) from error


def read_member(z: zipfile.ZipFile, info: zipfile.ZipInfo, *, max_bytes: int) -> bytes:
    """The content of a file in an archive, checksum verified.

    Args:
      z: the open archive.
      info: of the file.
      max_bytes: larger files are refused.

    Raises:
      ValueError: it is too large, encrypted, packed by a rare method, or not as long as it says.
    """
    _check_member(info, max_bytes)
    with z.open(info) as file:
        content = file.read(
            info.file_size
        )  # without a number, all that a block expands to is made first
    if len(content) != info.file_size:
        raise ValueError(f"{info.filename!r} must have {info.file_size} bytes, got {len(content)}")
    return content


def _check_member(info: zipfile.ZipInfo, max_bytes: int) -> None:
    if info.flag_bits & 1 or info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(
            f"{info.filename!r} must be stored or deflated and not encrypted, got method {info.compress_type}, flags {info.flag_bits}"
        )
    if info.file_size > max_bytes:
        raise ValueError(
            f"{info.filename!r} must be at most {max_bytes} bytes, got {info.file_size}"
        )


def _unpack(z: zipfile.ZipFile, member: str, path: Path, max_bytes: int) -> None:
    names = z.namelist()
    for name in names:
        # ZipFile has turned backslashes into slashes on Windows only
        parts = PurePosixPath(name.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or ":" in name:
            raise ValueError(f"must hold no path outside the archive, got {name!r}")
    if names.count(member) != 1:
        raise ValueError(f"must hold one file {member!r}, got {names[:20]}")
    info = z.getinfo(member)
    _check_member(info, max_bytes)
    if path.is_file() and path.stat().st_size == info.file_size and _crc32(path) == info.CRC:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with z.open(info) as source, _whole(path) as out:
        # never gives more than file_size bytes, and ends with a check of the CRC
        written = 0
        while block := source.read(BLOCK):
            written += len(block)
            out.write(block)
        if written != info.file_size:
            raise ValueError(f"{member!r} must have {info.file_size} bytes, got {written}")


@contextlib.contextmanager
def _whole(path: Path) -> Iterator[BinaryIO]:
    """A file to write that becomes `path` at the end of the block, or vanishes."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with part.open("xb") as out:
            yield out
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _network(url: str) -> Iterator[None]:
    """Name the address in whatever goes wrong with it."""
    try:
        yield
    except (OSError, http.client.HTTPException) as error:  # of urllib's too
        raise OSError(f"{url}: cannot be downloaded ({type(error).__name__}: {error})") from error


def _md5() -> Any:
    return hashlib.md5(usedforsecurity=False)


def _crc32(path: Path) -> int:
    crc = 0
    with path.open("rb") as f:
        while block := f.read(BLOCK):
            crc = zlib.crc32(block, crc)
    return crc
