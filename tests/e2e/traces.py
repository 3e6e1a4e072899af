"""Looks for known bytes wherever a node could have kept them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from safetensors import safe_open

from devcluster.s3 import S3Access

NEEDLE_BYTES = 32  # by chance once in 10^77
NEEDLES_PER_FILE = 6
CHUNK_BYTES = 16 << 20


@dataclass
class Needles:
    """Byte strings by what they are part of, such as "picture 01.png"."""

    by_source: dict[str, set[bytes]] = field(default_factory=dict)

    def add(self, source: str, data: bytes) -> None:
        """A few pieces of the data, from all over it; pieces that repeat one byte tell nothing."""
        room = max(1, len(data) - NEEDLE_BYTES)
        pieces = (data[start : start + NEEDLE_BYTES] for start in range(0, room, max(1, room // NEEDLES_PER_FILE)))
        self.by_source.setdefault(source, set()).update(piece for piece in pieces if len(set(piece)) > 8)

    def add_picture(self, path: Path) -> None:
        """As it was uploaded, and as the rows of pixels it decodes to."""
        self.add(f"picture {path.name}", path.read_bytes()[100:])
        self.add(f"pixels of {path.name}", Image.open(path).convert("RGB").tobytes())

    def add_weights(self, source: str, path: Path) -> None:
        with safe_open(path, framework="np") as tensors:
            for name in list(tensors.keys())[::20]:
                self.add(source, tensors.get_tensor(name).tobytes())

    def add_credentials(self, access: S3Access) -> None:
        self.by_source["secret key"] = {access.secret_key.encode()}

    def found_in(self, chunks: Iterable[bytes]) -> set[str]:
        """The sources of which a piece occurs in the stream; `chunks` overlap by a needle's length."""
        missing = {source: set(needles) for source, needles in self.by_source.items()}
        found: set[str] = set()
        for chunk in chunks:
            hits = {source for source, needles in missing.items() if any(needle in chunk for needle in needles)}
            found |= hits
            missing = {source: needles for source, needles in missing.items() if source not in hits}
        return found


def in_files(folder: Path, needles: Needles, changed_after: float = 0) -> dict[str, set[str]]:
    """Path -> what was found in it, for the regular files below `folder` that were changed since."""
    found = {}
    for path in _files(folder):
        try:
            if path.lstat().st_ctime < changed_after:
                continue
            if hits := needles.found_in(_read(path)):
                found[str(path)] = hits
        except OSError as error:  # a running node has files that go, and handles of namespaces, which hold no bytes
            if error.errno not in (errno.ENOENT, errno.EINVAL):
                raise
    return found


def in_raw_disk(image: Path, needles: Needles) -> set[str]:
    """What is found anywhere in the disk image, in deleted files' blocks too."""
    return needles.found_in(_written(image))


def _files(folder: Path) -> Iterator[Path]:
    for parent, _, names in os.walk(folder):
        yield from (path for name in names if (path := Path(parent, name)).is_file() and not path.is_symlink())


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as source:
        tail = b""
        while chunk := source.read(CHUNK_BYTES):
            yield tail + chunk
            tail = chunk[-NEEDLE_BYTES:]


def _written(image: Path) -> Iterator[bytes]:
    """The parts of a sparse file that were ever written."""
    with image.open("rb") as source:
        end = source.seek(0, os.SEEK_END)
        position = 0
        while position < end:
            try:
                position = os.lseek(source.fileno(), position, os.SEEK_DATA)
            except OSError:  # ENXIO: only a hole is left
                return
            hole = os.lseek(source.fileno(), position, os.SEEK_HOLE)
            tail = b""
            while position < hole:
                chunk = os.pread(source.fileno(), min(CHUNK_BYTES, hole - position), position)
                yield tail + chunk
                tail = chunk[-NEEDLE_BYTES:]
                position += len(chunk)
