"""Takes pictures and captions out of a zip, entry by entry, each into a file of a name of our own.

Never `extractall`: names in a zip are data, sizes in it may lie, and it may hold links, devices and other zips.
Kept apart from decoding because it is the one place that knows the zip format.
"""

from __future__ import annotations

import errno
import itertools
import shutil
import stat
import struct
import zipfile
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from dreambooth_job.data.listing import MAX_PICTURE_BYTES, base_name, ignored_kinds, kind_of
from dreambooth_job.errors import ImagesUnusable

MAX_TOTAL_BYTES = 4 << 30
MAX_RATIO = 100
RATIO_FREE_BYTES = 1 << 20  # small entries may compress as well as they like
MAX_ENTRIES = 10_000
MAX_DIRECTORY_BYTES = 16 << 20  # 10,000 entries with names of 1,024 bytes; checked before the directory is parsed
READ_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, OverflowError, OSError, struct.error)


@dataclass(frozen=True)
class Unpacked:
    files: tuple[tuple[str, Path], ...]  # entry name as it stands in the zip, where its bytes lie
    ignored: Counter[str]


def unpack(archive: Path, folder: Path, name: str) -> Unpacked:
    """Writes each picture and caption to `folder/<number>`; `name` is the zip's own base name, for errors.

    Raises ImagesUnusable when the zip is damaged, encrypted or over a limit: nothing of such a zip is used.
    """
    try:
        _check_directory_size(archive, name)
        with zipfile.ZipFile(archive) as source:
            entries = [e for e in source.infolist() if not e.is_dir()]
            _check_limits(entries, name)
            kinds = [_kind(entry) for entry in entries]
            wanted = [e for e, kind in zip(entries, kinds, strict=True) if kind in ("picture", "caption")]
            folder.mkdir(parents=True, exist_ok=True)
            files = tuple((e.filename, _copy(source, e, folder / str(i))) for i, e in enumerate(wanted))
    except NotImplementedError as error:
        raise ImagesUnusable(f"{name} uses a compression that cannot be read; zip it again with deflate") from error
    except READ_ERRORS as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise  # a full disk is not the zip's fault; EINVAL is a seek to where the zip's numbers lead
        raise ImagesUnusable(f"{name} is not a readable zip (damaged or cut off); upload it again") from error
    ignored = ["zip inside a zip" if kind == "archive" else kind for kind in kinds]
    return Unpacked(files, Counter(ignored_kinds(ignored)))


def _kind(entry: zipfile.ZipInfo) -> str:
    mode = entry.external_attr >> 16
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "link or device in a zip"
    # The name is never used as a path; one that tries to be a path elsewhere was not made by an honest tool.
    raw = entry.orig_filename
    parts = PurePosixPath(raw.replace("\\", "/")).parts
    if raw.startswith(("/", "\\")) or ".." in parts or raw[1:2] == ":" or "\0" in raw:
        return "unsafe name in a zip"
    return kind_of(entry.filename.replace("\\", "/"))


def _copy(source: zipfile.ZipFile, entry: zipfile.ZipInfo, to: Path) -> Path:
    """zipfile itself stops at the declared size and then checks the CRC; it does not notice when there is less."""
    with source.open(entry) as reader, to.open("wb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)
        if writer.tell() != entry.file_size:
            raise zipfile.BadZipFile("shorter than declared")
    return to


def _check_directory_size(archive: Path, name: str) -> None:
    """Reads the end record alone: parsing a directory of a million entries would already cost a gigabyte."""
    with archive.open("rb") as file:
        file.seek(max(0, archive.stat().st_size - (22 + 65535)))
        tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at >= 0 and struct.unpack_from("<I", tail, at + 12)[0] > MAX_DIRECTORY_BYTES:
        raise ImagesUnusable(f"{name} holds too many entries; at most {MAX_ENTRIES} are read")


def _check_limits(entries: list[zipfile.ZipInfo], name: str) -> None:
    if len(entries) > MAX_ENTRIES:
        raise ImagesUnusable(f"{name} holds {len(entries)} entries; at most {MAX_ENTRIES} are read")
    if any(e.flag_bits & 1 for e in entries):
        raise ImagesUnusable(f"{name} is encrypted; upload it without a password")
    total = sum(e.file_size for e in entries)
    if total > MAX_TOTAL_BYTES:
        raise ImagesUnusable(f"{name} unpacks to {total >> 20} MB; at most {MAX_TOTAL_BYTES >> 20} MB are read")
    for entry in entries:
        _check_entry(entry, name)
    ordered = sorted(entries, key=lambda e: e.header_offset)
    for entry, following in itertools.pairwise(ordered):
        if entry.header_offset + entry.compress_size > following.header_offset:
            raise ImagesUnusable(f"{name} has entries that overlap, as no honest tool writes them; zip it again")


def _check_entry(entry: zipfile.ZipInfo, name: str) -> None:
    inside = f"{base_name(entry.filename)} in {name}"
    if entry.file_size > MAX_RATIO * max(1, entry.compress_size) and entry.file_size > RATIO_FREE_BYTES:
        raise ImagesUnusable(f"{inside} unpacks to more than {MAX_RATIO} times its size; remove it")
    if entry.file_size > MAX_PICTURE_BYTES and kind_of(entry.filename) in ("picture", "caption"):
        raise ImagesUnusable(f"{inside} is {entry.file_size >> 20} MB, at most {MAX_PICTURE_BYTES >> 20} MB are read")
