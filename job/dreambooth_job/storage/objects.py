"""What every stage needs on top of a store: small objects as bytes, and deletes that stay below a given folder."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from dreambooth_job.contracts import ObjectInfo, ObjectStore
from dreambooth_job.errors import InputChanged, StorageNotFound

_READS = 5


def read_bytes(store: ObjectStore, key: str) -> tuple[bytes, ObjectInfo] | None:
    """A small object, whole and verified; None when there is none. One that is being replaced is read again."""
    for _ in range(_READS):
        if (info := store.head(key)) is None:
            return None
        with tempfile.TemporaryDirectory() as folder, suppress(InputChanged, StorageNotFound):
            store.get(info, Path(folder) / "object")
            return (Path(folder) / "object").read_bytes(), info
    raise InputChanged(f"{key.rpartition('/')[2]} was replaced {_READS} times while it was being read")


def write_bytes(
    store: ObjectStore, data: bytes, key: str, *, if_none_match: bool = False, if_match: str | None = None
) -> ObjectInfo:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "object"
        source.write_bytes(data)
        return store.put(source, key, if_none_match=if_none_match, if_match=if_match)


def delete_below(store: ObjectStore, prefix: str) -> int:
    """Deletes a folder of the job's own and says how many objects went. Refuses what is no folder: "" or "a"."""
    if not prefix.strip("/") or not prefix.endswith("/"):
        raise ValueError(f"{prefix!r} is not a folder")
    return delete_all(store, [info.key for info in store.list(prefix)])


def delete_all(store: ObjectStore, keys: Iterable[str]) -> int:
    """Manifests go first: no reader may see one whose files are gone."""
    ordered = sorted(keys, key=lambda key: not key.endswith("manifest.json"))
    for key in ordered:
        store.delete(key)
    return len(ordered)
