"""`dreambooth-job doctor s3://bucket/prefix/`: does this image run here, and may a training pod use that prefix?

It asks with the store and the credentials of a training pod, writes one small object below the prefix and takes it
away again. One line a check; exit code 1 when one has failed. A store without conditional writes is only a warning.
"""

from __future__ import annotations

import argparse
import os
import platform
import secrets
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from dreambooth_api.names import ENV_CREDENTIALS, ENV_SCRATCH
from dreambooth_job.contracts import ObjectStore
from dreambooth_job.errors import InputCorrupt, JobError, StorageDenied
from dreambooth_job.storage.client import StorageSettings
from dreambooth_job.storage.failures import ConditionLost
from dreambooth_job.storage.objects import read_bytes, write_bytes
from dreambooth_job.storage.s3 import open_store
from dreambooth_job.storage.uris import S3Uri, parse

BUDGET_SECONDS = 10.0  # of patience with a store that does not answer
SHARED_MEMORY = Path("/dev/shm")  # writable in every container, whatever its root is
CONTENT = b"dreambooth-job doctor"


@dataclass(frozen=True)
class Line:
    mark: str  # "ok", "warning", "FAILED" or "skipped"
    check: str
    text: str

    def __str__(self) -> str:
        return f"{self.mark:<8} {self.check:<15} {self.text}"  # columns as the operator's doctor prints them


class Careless(Exception):
    """The store can be used, with a loss that the text names."""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser("dreambooth-job doctor", description=__doc__)
    parser.add_argument("uri", help="where a TrainingJob would publish: s3://bucket/prefix/")
    parser.add_argument("--endpoint", help="storage.endpoint; left out: Amazon's")
    parser.add_argument("--region", help="storage.region")
    asked = parser.parse_args(arguments)
    if folder := os.environ.get(ENV_SCRATCH) or (SHARED_MEMORY.is_dir() and str(SHARED_MEMORY)):
        tempfile.tempdir = folder
    failed = False
    for line in examine(asked.uri, StorageSettings(asked.endpoint or None, asked.region or None, _credentials())):
        print(line, flush=True)
        failed |= line.mark == "FAILED"
    return int(failed)


def examine(uri: str, settings: StorageSettings) -> Iterator[Line]:
    yield Line("ok", "image", f"{_versions()}; user {os.getuid()}")
    try:
        place = parse(uri)
        store = open_store(place.bucket, settings).within(BUDGET_SECONDS)
    except JobError as error:
        yield Line("FAILED", "settings", str(error))
        return
    probe = _Probe(store, place, f"{place.prefix}.doctor-{secrets.token_hex(4)}")
    put = _line("put", probe.put)
    yield put
    for name, check in (("conditional put", probe.put_again), ("get", probe.get), ("list", probe.find)):
        yield _line(name, check) if put.mark == "ok" else Line("skipped", name, "there is nothing to try it with")
    yield _line("delete", probe.delete)


def _versions() -> str:
    """From the packages' metadata: importing torch takes seconds, and nobody trains here."""
    return ", ".join([f"python {platform.python_version()}", *(f"{p} {version(p)}" for p in ("torch", "diffusers"))])


def _credentials() -> Path | None:
    folder = os.environ.get(ENV_CREDENTIALS)
    return Path(folder) if folder and Path(folder).is_dir() else None


def _line(name: str, check: Callable[[], str]) -> Line:
    try:
        return Line("ok", name, check())
    except Careless as error:
        return Line("warning", name, str(error))
    except JobError as error:
        return Line("FAILED", name, str(error))


@dataclass(frozen=True)
class _Probe:
    """One small object; each check says what it found, or raises."""

    store: ObjectStore
    place: S3Uri
    key: str

    def put(self) -> str:
        write_bytes(self.store, CONTENT, self.key)
        return f"wrote {len(CONTENT)} bytes below {self.place}"

    def put_again(self) -> str:
        try:
            write_bytes(self.store, CONTENT, self.key, if_none_match=True)
        except ConditionLost:
            return "refused the second time, as it must be"
        raise Careless(
            "the store overwrites what it was asked to leave alone; two attempts at the same time may leave files "
            "of the loser behind (docs/storage.md)"
        )

    def get(self) -> str:
        found = read_bytes(self.store, self.key)
        if found is None or found[0] != CONTENT:
            raise InputCorrupt("what was written is not what is read back; check the store")
        return "read back as written"

    def find(self) -> str:
        if all(info.key != self.key for info in self.store.list(self.place.prefix)):
            raise StorageDenied("what was written is not listed; grant s3:ListBucket on the bucket and this prefix")
        return "what was written is listed"

    def delete(self) -> str:
        self.store.delete(self.key)
        return "taken away again"
