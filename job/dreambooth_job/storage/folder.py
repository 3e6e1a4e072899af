"""A local folder behind the store protocol: for tests and for runs without a bucket. One file a key."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dreambooth_job.contracts import ObjectInfo, Verification
from dreambooth_job.errors import InputChanged, InputCorrupt, StorageMisconfigured, StorageNotFound
from dreambooth_job.storage.digests import sha256_of
from dreambooth_job.storage.failures import ConditionLost

_PARTIAL = ".partial"  # where files are written before they are renamed into place; not part of any listing


@dataclass(frozen=True)
class FolderStore:
    root: Path

    def within(self, budget_seconds: float, *, deaf: bool = False) -> FolderStore:
        return self

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        paths = (path for path in self.root.rglob("*") if path.is_file())
        keys = sorted(path.relative_to(self.root).as_posix() for path in paths)
        for key in keys:
            if key.startswith(prefix) and not key.startswith(_PARTIAL) and (info := self.head(key)):
                yield info

    def head(self, key: str) -> ObjectInfo | None:
        path = self._path(key)
        try:
            stat = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return ObjectInfo(key, stat.st_size, f'"{stat.st_ino:x}-{stat.st_mtime_ns:x}"') if path.is_file() else None

    def get(self, info: ObjectInfo, to: Path, sha256: str | None = None) -> Verification:
        to.parent.mkdir(parents=True, exist_ok=True)
        temporary = to.with_name(f".{secrets.token_hex(8)}.part")
        try:
            self._copy_pinned(info, temporary)
            if sha256 is not None and sha256_of(temporary) != sha256:
                raise InputCorrupt(f"{_base(info.key)}: its bytes differ from its SHA-256; copy it again")
            os.replace(temporary, to)
        finally:
            temporary.unlink(missing_ok=True)
        return Verification.UNVERIFIED if sha256 is None else Verification.SHA256

    def _copy_pinned(self, info: ObjectInfo, to: Path) -> None:
        try:
            shutil.copyfile(self._path(info.key), to)
        except (FileNotFoundError, NotADirectoryError):
            raise StorageNotFound(f"{_base(info.key)} does not exist in the folder store") from None
        if self.head(info.key) != info:
            raise InputChanged(f"{_base(info.key)} changed while it was being read; leave the inputs alone meanwhile")

    def put(self, source: Path, key: str, *, if_none_match: bool = False, if_match: str | None = None) -> ObjectInfo:
        target = self._path(key)
        with self._alone():
            current = self.head(key)
            if (if_none_match and current) or (if_match and (current is None or current.etag != if_match)):
                raise ConditionLost(f"{_base(key)} was written by another")
            temporary = self.root / _PARTIAL / secrets.token_hex(8)
            shutil.copyfile(source, temporary)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary, target)
            written = self.head(key)
        assert written is not None
        return written

    def delete(self, key: str) -> None:
        """An empty folder goes with its last file, as prefixes do in a bucket."""
        path = self._path(key)
        with self._alone():
            path.unlink(missing_ok=True)
            for folder in path.parents:
                if folder == self.root or not folder.exists() or any(folder.iterdir()):
                    return
                folder.rmdir()

    def peek(self, info: ObjectInfo) -> None:
        with self._path(info.key).open("rb") as file:
            file.read(1)

    def probe_upload(self, key: str) -> float:
        self._path(key)
        return 0.0

    def abort_uploads(self, prefix: str) -> int:
        return 0

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """One writer at a time, other processes included: the check and the rename are one step."""
        (self.root / _PARTIAL).mkdir(parents=True, exist_ok=True)
        with (self.root / _PARTIAL / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _path(self, key: str) -> Path:
        segments = key.split("/")
        if not key or "\0" in key or any(segment in {"", ".", "..", _PARTIAL} for segment in segments):
            raise StorageMisconfigured(f"the key of {_base(key)!r} is no path below a folder; use a bucket for it")
        return self.root.joinpath(*segments)


def _base(key: str) -> str:
    return key.rpartition("/")[2]
