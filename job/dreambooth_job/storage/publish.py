"""The publish protocol: files first, each verified, below the attempt's own prefix; one conditional manifest last.

Whoever sees `manifest.json` sees a complete result: nothing it lists is ever overwritten, and of several writers
exactly one commits. Cleaning up comes after the commit and cannot undo it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
from pydantic import ValidationError

from dreambooth_api.names import CHECKPOINTS_FOLDER
from dreambooth_job.contracts import ObjectStore
from dreambooth_job.errors import OutputExists, StorageError
from dreambooth_job.storage.digests import sha256_of
from dreambooth_job.storage.failures import ConditionLost
from dreambooth_job.storage.manifest import MANIFEST, File, Manifest
from dreambooth_job.storage.objects import delete_all, delete_below, read_bytes, write_bytes

log = structlog.get_logger()


@dataclass(frozen=True)
class Output:
    """Where one attempt of one job publishes."""

    prefix: str  # "rex/" or "" for the whole bucket
    job_uid: str
    attempt: str  # "<name>-<uid[:8]>-r<runIndex>-<podUID[:8]>"
    replace: bool = False  # output.overwritePolicy: Replace
    conditional: bool = True  # what the preflight found out about the store

    @property
    def manifest_key(self) -> str:
        return self.prefix + MANIFEST

    @property
    def attempts_stem(self) -> str:
        """What the prefixes of all attempts of this job begin with."""
        return self.prefix + self.attempt.rsplit("-r", 1)[0] + "-r"

    @property
    def checkpoints(self) -> str:
        return f"{self.prefix}{CHECKPOINTS_FOLDER}/{self.job_uid}/"


@dataclass(frozen=True)
class Standing:
    """The manifest that a reader sees now."""

    manifest: Manifest | None  # None: a manifest.json that is not ours to read
    etag: str


@dataclass(frozen=True)
class Published:
    manifest: Manifest
    already: bool  # another attempt of this job had published before
    removed: int  # objects of no further use that were deleted


def standing(store: ObjectStore, output: Output) -> Standing | None:
    found = read_bytes(store, output.manifest_key)
    if found is None:
        return None
    data, info = found
    try:
        return Standing(Manifest.model_validate_json(data), info.etag)
    except ValidationError:
        return Standing(None, info.etag)


def refuse_foreign(output: Output, found: Standing | None) -> None:
    """Raises OutputExists when the prefix holds the result of another job that must not be replaced."""
    if found is None or output.replace or (found.manifest and found.manifest.job_uid == output.job_uid):
        return
    holder = f"of job {found.manifest.name} (uid {found.manifest.job_uid})" if found.manifest else "of unknown origin"
    raise OutputExists(
        f"the output prefix already holds a result {holder}; choose another output.uri or set "
        "output.overwritePolicy: Replace"
    )


def publish(
    store: ObjectStore,
    output: Output,
    files: Mapping[str, Path],
    build_manifest: Callable[[tuple[File, ...]], Manifest],
) -> Published:
    """`files` by their path in the result. Raises OutputExists, or a StorageError with nothing published."""
    before = standing(store, output)
    refuse_foreign(output, before)
    if before and before.manifest and before.manifest.job_uid == output.job_uid:
        return _finish(store, output, before.manifest, replaced=None, already=True)
    uploaded = tuple(_upload(store, output, path, source) for path, source in sorted(files.items()))
    mine = build_manifest(uploaded).model_copy(update={"conditional": output.conditional})
    winner, replaced = _commit(store, output, mine, before)
    return _finish(store, output, winner, replaced, already=winner.attempt != output.attempt)


def _upload(store: ObjectStore, output: Output, path: str, source: Path) -> File:
    file = File(path=f"{output.attempt}/{path}", size_bytes=source.stat().st_size, sha256=sha256_of(source))
    store.put(source, output.prefix + file.path)
    return file


def _commit(
    store: ObjectStore, output: Output, mine: Manifest, before: Standing | None
) -> tuple[Manifest, Manifest | None]:
    """The manifest that stands at the end and the one it replaced. Raises OutputExists when another job's stands."""
    while True:
        try:
            _put_manifest(store, output, mine, before)
            return mine, before.manifest if before else None
        except ConditionLost:
            winner = standing(store, output)
        if winner and winner.manifest and winner.manifest.job_uid == output.job_uid:
            return winner.manifest, None
        try:
            refuse_foreign(output, winner)
        except OutputExists:
            delete_below(store, f"{output.prefix}{output.attempt}/")
            raise
        before = winner


def _put_manifest(store: ObjectStore, output: Output, mine: Manifest, before: Standing | None) -> None:
    """Raises ConditionLost when another manifest stands than `before`."""
    data, etag = mine.to_json(), before.etag if before else None
    if output.conditional:
        write_bytes(store, data, output.manifest_key, if_none_match=before is None, if_match=etag)
        return
    if (now := store.head(output.manifest_key)) and now.etag != etag:
        raise ConditionLost("the manifest was written by another")
    write_bytes(store, data, output.manifest_key)
    if (after := standing(store, output)) is None or after.manifest != mine:
        raise ConditionLost("the manifest was written by another")


def _finish(
    store: ObjectStore, output: Output, winner: Manifest, replaced: Manifest | None, *, already: bool
) -> Published:
    """Deletes what no reader of the standing manifest needs. What cannot be deleted is logged: the result stands."""
    try:
        removed = delete_all(store, _useless(store, output, winner, replaced))
        removed += delete_below(store, output.checkpoints)
        removed += store.abort_uploads(output.attempts_stem)
        removed += store.abort_uploads(output.checkpoints)
    except StorageError as error:
        log.warning("leftovers_kept", reason=error.reason.name)
        removed = 0
    return Published(winner, already, removed)


def _useless(store: ObjectStore, output: Output, winner: Manifest, replaced: Manifest | None) -> Sequence[str]:
    """Leftovers of this job's other attempts, and the replaced result.

    Where the store ignores conditions another attempt may still commit, so only what this attempt wrote is touched.
    """
    needed = {output.prefix + file.path for file in winner.files}
    stem = output.attempts_stem if output.conditional else f"{output.prefix}{output.attempt}/"
    leftovers = [info.key for info in store.list(stem)]
    old = [output.prefix + file.path for file in replaced.files] if replaced else []
    return [key for key in (*leftovers, *old) if key not in needed]
