"""Resume checkpoints in the bucket: `<base>/<step>-<attempt>/` with files first and their own manifest last.

`save` deletes older checkpoints only after the newer one stands; `newest_complete` trusts nothing but hashes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog
from pydantic import ValidationError

from dreambooth_job.contracts import ObjectStore
from dreambooth_job.errors import InputChanged, InputCorrupt, StorageNotFound, StorageUnavailable
from dreambooth_job.storage.digests import sha256_of
from dreambooth_job.storage.manifest import MANIFEST, CheckpointManifest, File
from dreambooth_job.storage.objects import delete_all, delete_below, read_bytes, write_bytes

log = structlog.get_logger()


@dataclass(frozen=True)
class Checkpoint:
    step: int
    attempt: str
    files: dict[str, Path]  # by their path in the checkpoint


@dataclass(frozen=True)
class Stored:
    """One folder of the listing; complete when its manifest is there."""

    name: str  # "<step>-<attempt>"
    keys: tuple[str, ...]

    @property
    def step(self) -> int:
        return int(self.name.partition("-")[0])

    @property
    def complete(self) -> bool:
        return any(key.endswith(f"/{self.name}/{MANIFEST}") for key in self.keys)


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one job; `base` is `Output.checkpoints`."""

    store: ObjectStore
    base: str
    attempt: str
    keep_last: int = 2

    def save(self, step: int, files: Mapping[str, Path], store: ObjectStore | None = None) -> None:
        """Uploads, commits, then deletes older ones. `store` may be a less patient one, for the last checkpoint."""
        store = store or self.store
        folder = f"{self.base}{step:08d}-{self.attempt}/"
        listed = tuple(_file(path, source) for path, source in sorted(files.items()))
        for file in listed:
            store.put(files[file.path], folder + file.path)
        manifest = CheckpointManifest(step=step, attempt=self.attempt, files=listed)
        write_bytes(store, manifest.to_json(), folder + MANIFEST)
        self._delete_older(store)

    def _delete_older(self, store: ObjectStore) -> None:
        stored = self._stored(store)
        kept = [one for one in stored if one.complete][: self.keep_last]
        oldest_kept = min(one.step for one in kept)
        for one in stored:
            if one not in kept and one.step <= oldest_kept:
                delete_all(store, one.keys)

    def _stored(self, store: ObjectStore) -> list[Stored]:
        """Newest first."""
        folders: dict[str, list[str]] = {}
        for info in store.list(self.base):
            name = info.key[len(self.base) :].partition("/")[0]
            if name.partition("-")[0].isdigit():
                folders.setdefault(name, []).append(info.key)
        found = [Stored(name, tuple(keys)) for name, keys in folders.items()]
        return sorted(found, key=lambda one: (one.step, one.name), reverse=True)

    def newest_complete(self, folder: Path) -> Checkpoint | None:
        """Fetches into `folder`; a damaged checkpoint is passed over for the one before it. Denied is never absent."""
        for one in self._stored(self.store):
            if one.complete:
                try:
                    return self._fetch(one, folder / one.name)
                except (InputCorrupt, InputChanged, StorageNotFound, ValidationError) as error:
                    log.warning("checkpoint_damaged", step=one.step, error=type(error).__name__)
        return None

    def _fetch(self, stored: Stored, folder: Path) -> Checkpoint:
        prefix = f"{self.base}{stored.name}/"
        data = read_bytes(self.store, prefix + MANIFEST)
        manifest = CheckpointManifest.model_validate_json(data[0] if data else b"")
        for file in manifest.files:
            info = self.store.head(prefix + file.path)
            if info is None or info.size_bytes != file.size_bytes:
                raise InputCorrupt(f"checkpoint {stored.step}: {file.path} is missing or of another size")
            self.store.get(info, folder / file.path, file.sha256)
        return Checkpoint(manifest.step, manifest.attempt, {file.path: folder / file.path for file in manifest.files})

    def remove_all(self) -> int:
        return delete_below(self.store, self.base)


def _file(path: str, source: Path) -> File:
    return File(path=path, size_bytes=source.stat().st_size, sha256=sha256_of(source))


class BackgroundSaver:
    """Saves while training goes on, one checkpoint at a time. The files must stay as they are until it is idle."""

    def __init__(self, checkpoints: Checkpoints, on_saved: Callable[[int], None] = lambda step: None) -> None:
        """`on_saved(step)` runs in the saver's thread, once a checkpoint stands."""
        self._checkpoints, self._on_saved = checkpoints, on_saved
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    @property
    def idle(self) -> bool:
        return self._thread is None or not self._thread.is_alive()

    def start(self, step: int, files: Mapping[str, Path]) -> bool:
        """False while the last one is still on its way: skipping a checkpoint is better than waiting for it.

        Raises what the last one failed with, unless the store was merely unreachable: training can outlive that.
        """
        if not self.idle:
            log.warning("checkpoint_skipped", step=step)
            return False
        self.raise_failure()
        self._thread = threading.Thread(target=self._save, args=(step, files), name="checkpoint", daemon=True)
        self._thread.start()
        return True

    def wait(self, seconds: float) -> bool:
        """Whether it became idle in that time."""
        if self._thread:
            self._thread.join(seconds)
        return self.idle

    def raise_failure(self) -> None:
        error, self._error = self._error, None
        if error:
            raise error

    def _save(self, step: int, files: Mapping[str, Path]) -> None:
        try:
            self._checkpoints.save(step, files)
            self._on_saved(step)
        except StorageUnavailable as error:
            log.warning("checkpoint_failed", step=step, reason=error.reason.name)
        except Exception as error:
            self._error = error
