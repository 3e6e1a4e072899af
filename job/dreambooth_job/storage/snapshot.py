"""The inputs as they were when the job began: one listing, pinned by ETag, fetched under names no key can choose."""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dreambooth_job.contracts import ObjectInfo, ObjectStore, Verification
from dreambooth_job.storage.uris import S3Uri
from dreambooth_job.storage.workers import in_order

_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,12}")


def snapshot(store: ObjectStore, uri: S3Uri) -> list[ObjectInfo]:
    """The one object that `uri` names, or all below it as a folder, by key; empty when there is nothing."""
    if uri.key and not uri.key.endswith("/") and (info := store.head(uri.key)):
        return [info]
    return sorted(store.list(uri.prefix), key=lambda info: info.key)


def local_name(index: int, key: str) -> str:
    """`<index>-<hash><suffix>`: keys may hold "..", control characters or 1,024 bytes; the suffix is a hint only."""
    suffix = Path(key.rpartition("/")[2]).suffix
    safe = suffix.lower() if _SUFFIX.fullmatch(suffix) else ""
    return f"{index:05d}-{hashlib.sha256(key.encode()).hexdigest()[:16]}{safe}"


@dataclass(frozen=True)
class Fetched:
    index: int
    info: ObjectInfo
    path: Path
    verification: Verification


def fetch(
    store: ObjectStore,
    infos: Sequence[ObjectInfo],
    folder: Path,
    stop: threading.Event,
    *,
    name: Callable[[int, str], str] = local_name,
    width: int = 8,
) -> list[Fetched]:
    """All of a snapshot into `folder`, several at a time since small objects wait for round trips, in order."""
    names = [name(index, info.key) for index, info in enumerate(infos)]
    if len(set(names)) < len(names):
        raise ValueError("two objects of the snapshot have one local name")

    def task(index: int) -> Callable[[threading.Event], Fetched]:
        path = folder / names[index]
        return lambda cancelled: Fetched(index, infos[index], path, store.get(infos[index], path))

    return list(in_order([task(index) for index in range(len(infos))], width, stop))
