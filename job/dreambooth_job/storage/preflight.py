"""Proves every access in seconds, before a model is loaded, and names all problems at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice

from dreambooth_job.contracts import ObjectInfo, ObjectStore
from dreambooth_job.errors import (
    ImagesMissing,
    InputChanged,
    InputCorrupt,
    InvalidSpec,
    JobError,
    OutputExists,
    StorageDenied,
    StorageError,
    StorageFull,
    StorageMisconfigured,
    StorageNotFound,
    StorageUnavailable,
)
from dreambooth_job.storage.failures import ConditionLost
from dreambooth_job.storage.manifest import Manifest
from dreambooth_job.storage.objects import write_bytes
from dreambooth_job.storage.publish import Output, refuse_foreign, standing
from dreambooth_job.storage.uris import S3Uri

_MAX_SKEW_SECONDS = 300  # S3 refuses signatures that are off by 15 minutes
_PEEKED = 3  # objects of each input that are read: rights rarely differ within a prefix

# The worst first: what a user must correct outranks what another attempt may find gone.
_WORST_FIRST: tuple[type[JobError], ...] = (
    StorageMisconfigured, StorageDenied, StorageNotFound, ImagesMissing, InvalidSpec, StorageFull, OutputExists,
    InputCorrupt, InputChanged, StorageUnavailable,
)  # fmt: skip


@dataclass(frozen=True)
class Reading:
    """One input: the spec's field, where it lies, and the error when nothing is there."""

    field: str  # "subjects[0].images.uri"
    store: ObjectStore
    uri: S3Uri
    missing: type[JobError] = StorageNotFound


@dataclass
class Findings:
    """What was learned; `problems` is empty when preflight() returns."""

    conditional: bool = True  # whether the output's store honours conditional writes
    published: Manifest | None = None  # this job's own result, when an earlier attempt has published it
    problems: list[tuple[str, JobError]] = field(default_factory=list)


def preflight(
    readings: Sequence[Reading], store: ObjectStore, output: Output, *, budget_seconds: float = 10.0
) -> Findings:
    """Raises the worst problem's error with the text of all of them."""
    findings = Findings()
    checks = [(reading.field, partial(_check_reading, reading, budget_seconds)) for reading in readings]
    checks += [("output.uri", check) for check in _output_checks(store.within(budget_seconds), output, findings)]
    for name, check in checks:
        with _noted(findings, name):
            check()
        if any(isinstance(error, StorageUnavailable) for _, error in findings.problems):
            break  # the other checks would each wait for it again
    if findings.problems:
        raise _together(findings.problems)
    return findings


@contextmanager
def _noted(findings: Findings, field_name: str) -> Iterator[None]:
    try:
        yield
    except (StorageError, ImagesMissing, InvalidSpec) as error:
        findings.problems.append((field_name, error))


def _together(problems: Sequence[tuple[str, JobError]]) -> JobError:
    errors = [error for _, error in problems]
    worst = next((kind for kind in _WORST_FIRST if any(isinstance(error, kind) for error in errors)), type(errors[0]))
    lines = dict.fromkeys(f"{name}: {error}" for name, error in problems)
    count = f"{len(lines)} problems with the storage. " if len(lines) > 1 else ""
    return worst(count + " | ".join(lines))


def _check_reading(reading: Reading, budget_seconds: float) -> None:
    store = reading.store.within(budget_seconds)
    for info in _first(store, reading):
        store.peek(info)


def _first(store: ObjectStore, reading: Reading) -> list[ObjectInfo]:
    uri = reading.uri
    listed = list(islice(store.list(uri.prefix), _PEEKED))
    if uri.key and not uri.key.endswith("/") and not listed and (info := store.head(uri.key)):
        return [info]
    if not listed:
        raise reading.missing(f"there is nothing at {uri}; keys are case-sensitive, check it letter by letter")
    return listed


def _output_checks(store: ObjectStore, output: Output, findings: Findings) -> list[Callable[[], None]]:
    probe = f"{output.prefix}.probe-{output.attempt}"
    return [
        partial(_check_listing, store, output.prefix),
        partial(_check_conditions, store, probe, findings),
        partial(_check_read_back, store, probe),
        partial(_check_multipart, store, probe + "-multipart"),
        partial(_check_standing, store, output, findings),
        partial(store.delete, probe),
    ]


def _check_listing(store: ObjectStore, prefix: str) -> None:
    """Without this right some stores call a missing object denied, and what is left over cannot be found."""
    next(iter(store.list(prefix)), None)


def _check_conditions(store: ObjectStore, probe: str, findings: Findings) -> None:
    """A write that must not succeed; a store that lets it through ignores conditions."""
    write_bytes(store, b"probe", probe)
    try:
        write_bytes(store, b"probe again", probe, if_none_match=True)
        findings.conditional = False
    except ConditionLost:
        findings.conditional = True


def _check_read_back(store: ObjectStore, probe: str) -> None:
    if info := store.head(probe):
        store.peek(info)


def _check_multipart(store: ObjectStore, probe: str) -> None:
    skew = store.probe_upload(probe)
    if abs(skew) > _MAX_SKEW_SECONDS:
        direction = "ahead of" if skew > 0 else "behind"
        raise StorageMisconfigured(f"this node's clock is {abs(skew):.0f} s {direction} the store's; set it")


def _check_standing(store: ObjectStore, output: Output, findings: Findings) -> None:
    found = standing(store, output)
    refuse_foreign(output, found)
    if found and found.manifest and found.manifest.job_uid == output.job_uid:
        findings.published = found.manifest
