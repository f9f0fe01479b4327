"""Corpora in tar or zip archives, unpacked once beside the cache of ``datasets``.

An archive is unpacked completely or not at all, and only plain files and folders below its own folder are written: it
may come from anywhere.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from sft_speech.corpora.headers import key_of, own_cache
from sft_speech.errors import UserError

logger = logging.getLogger(__name__)

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".zip")
# More than any corpus needs: speech as WAV shrinks to a half, transcripts to a tenth, while a zip bomb grows 1032-fold
# and one of xz more.
MOST_FILES = 5_000_000
MOST_GROWTH = 100  # bytes unpacked per byte of the archive
ALWAYS_FINE = 1 << 28  # bytes unpacked, whatever the size of the archive
LONGEST_HEADER = 1 << 20  # bytes; tarfile reads extended headers, which hold names, into memory
RESERVE = 5e9  # bytes that stay free; on a small disk, this share:
RESERVE_SHARE = 0.05
_BLOCK = 1 << 20
_REFUSED = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)


class _Member(NamedTuple):
    """A plain file in an archive."""

    name: str
    size: int
    open: Callable[[], IO[bytes] | None]


def unpacked(source: str, cache_dir: str | os.PathLike[str] | None = None) -> str:
    """Unpack an archive and return the folder of its contents; return any other source unchanged.

    The archive is unpacked unless one of this path, size and time already was. Links and devices in it are left out
    and counted in a warning; archives in it stay archives.

    Raises:
        UserError: it is damaged, a member's path leaves its folder, or it takes more space than the disk has or
            :data:`MOST_GROWTH` allows.
    """
    from filelock import FileLock

    archive = Path(source)
    if not archive.name.lower().endswith(ARCHIVES) or not archive.is_file():
        return source
    status = archive.stat()
    suffix = max((one for one in ARCHIVES if archive.name.lower().endswith(one)), key=len)
    name = f"{archive.name[: -len(suffix)]}-{key_of(archive.absolute(), status.st_size, status.st_mtime_ns):016x}"
    folder = own_cache(cache_dir) / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):  # other processes wait
        if not folder.is_dir():
            part = folder.with_name(f"{name}.part")
            shutil.rmtree(part, ignore_errors=True)  # left by a process that was killed
            _clear(folder.parent)
            try:
                _unpack(archive, part, folder)
                part.rename(folder)
            except UserError:
                raise
            except Exception as error:  # tarfile and zipfile raise all kinds for damaged archives
                if isinstance(error, OSError) and error.errno in _REFUSED:
                    raise
                why = f"it cannot be unpacked ({str(error) or type(error).__name__})"
                raise UserError(
                    str(archive), why, "fetch it again, or unpack it by hand and give the folder"
                ) from error
            finally:
                shutil.rmtree(part, ignore_errors=True)
    inside = list(folder.iterdir())
    return str(inside[0] if len(inside) == 1 and inside[0].is_dir() else folder)


def _clear(cache: Path) -> None:
    """Remove what killed processes left of other archives; running processes hold their locks."""
    from filelock import FileLock, Timeout

    for part in cache.glob("*.part"):
        if part.is_dir():
            with contextlib.suppress(Timeout), FileLock(part.with_suffix(".lock"), timeout=0):
                shutil.rmtree(part, ignore_errors=True)


def _unpack(archive: Path, part: Path, folder: Path) -> None:
    from tqdm import tqdm

    part.mkdir()
    limit = _limit(archive, part)
    logger.info("%s (%.2f GB) is unpacked into %s, once", archive, archive.stat().st_size / 1e9, folder)
    bar = tqdm(unit="B", unit_scale=True, desc="Unpacking", disable=None, leave=False)
    with bar, _members(archive) as members:
        written = 0
        for number, member in enumerate(members):
            if number >= MOST_FILES:
                raise _too_large(archive, f"it holds more than {MOST_FILES:,} files")
            if written + member.size > limit:
                raise _too_large(archive, f"it takes more than {limit / 1e9:.2f} GB")
            path = part / _safe(member.name, archive)
            path.parent.mkdir(parents=True, exist_ok=True)
            source = member.open()
            assert source is not None  # it is a plain file
            with source, open(path, "wb") as target:
                while block := source.read(_BLOCK):  # tarfile and zipfile give no more than the header says
                    written += len(block)
                    target.write(block)
                    bar.update(len(block))
    if not written:
        raise UserError(str(archive), "there is nothing in it", "fetch it again")


def _limit(archive: Path, part: Path) -> float:
    """Return how many bytes an archive may unpack to."""
    disk = shutil.disk_usage(part)
    free = disk.free - min(RESERVE, RESERVE_SHARE * disk.total)
    return min(free, max(ALWAYS_FINE, MOST_GROWTH * archive.stat().st_size))


def _too_large(archive: Path, why: str) -> UserError:
    return UserError(str(archive), why, "if that is right, make room, unpack it by hand, and give the folder")


def _safe(name: str, archive: Path) -> PurePosixPath:
    """Return a member's path below the folder of the archive.

    Raises:
        UserError: it leaves that folder.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name:
        do = "such archives are dangerous; if you trust it, unpack it by hand and give the folder"
        raise UserError(str(archive), f"its member {name!r} would be unpacked outside its folder", do)
    return path


@contextlib.contextmanager
def _members(archive: Path) -> Iterator[Iterator[_Member]]:
    """Yield the plain files of an archive."""
    if archive.name.lower().endswith(".zip"):
        with zipfile.ZipFile(archive) as zipped:
            yield _of_zip(zipped)
    else:
        with tarfile.open(archive, "r|*", tarinfo=_Header) as tar:  # a stream, read once
            yield _of_tar(tar)


class _Header(tarfile.TarInfo):
    """A header of limited size, which doesn't take the end of a cut file for the end of the archive."""

    _LONG = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME)

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        if not buf:
            raise tarfile.ReadError("its end is missing")
        found = super().frombuf(buf, encoding, errors)
        if found.type in (*cls._LONG, tarfile.GNUTYPE_LONGLINK) and found.size > LONGEST_HEADER:
            raise tarfile.ReadError(f"a header of {found.size:,} bytes")
        return found


def _of_zip(archive: zipfile.ZipFile) -> Iterator[_Member]:
    left_out = 0
    for info in archive.infolist():
        if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
            left_out += 1
        elif not info.is_dir():
            yield _Member(info.filename, info.file_size, partial(archive.open, info))
    _warn(left_out)


def _of_tar(archive: tarfile.TarFile) -> Iterator[_Member]:
    left_out = 0
    while (info := archive.next()) is not None:
        if info.isfile():
            yield _Member(info.name, info.size, partial(archive.extractfile, info))
        elif not info.isdir():
            left_out += 1
        archive.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
    _warn(left_out)


def _warn(left_out: int) -> None:
    if left_out:
        logger.warning("%d links or devices in the archive are left out", left_out)
