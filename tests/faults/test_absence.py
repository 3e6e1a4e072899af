"""The store is away for a minute, from any request on: everything waits for it, nothing fails, training goes on.

A clock of our own makes the minute pass: what sleeps moves it, so the default budgets are tried in no time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from dreambooth_job.contracts import ObjectStore
from dreambooth_job.stages.publish import PREFLIGHT_SECONDS
from dreambooth_job.storage.checkpoints import BackgroundSaver, Checkpoints
from dreambooth_job.storage.manifest import File, Manifest
from dreambooth_job.storage.preflight import Reading, preflight
from dreambooth_job.storage.publish import Output, publish
from dreambooth_job.storage.retrying import Retrying
from dreambooth_job.storage.s3 import MIB, S3Store, connect_bucket
from dreambooth_job.storage.uris import parse
from tests.faults.proxy import Action, Exchange, hang_up
from tests.faults.servers import SMALL, Faulty

AWAY_SECONDS = 60
PROMISED_SECONDS = 300  # of patience, at least, with a store that does not answer
REX = Output("out/", "11111111-aaaa", "rex-11111111-r0-aaaaaaaa")


@dataclass
class Clock:
    """Moves by what is slept, in whichever thread."""

    now: float = 1000.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        with self._lock:
            self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(faulty: Faulty, clock: Clock) -> S3Store:
    """As `open_store` makes it, with small parts and our clock."""
    settings = replace(faulty.bucket.settings, endpoint=faulty.proxy.endpoint)
    policy = Retrying(clock=clock, sleep=clock.sleep)
    return S3Store(connect_bucket(faulty.bucket.name, settings, retrying=policy), SMALL)


def away(clock: Clock) -> Action:
    """Nobody answers for a minute of the clock, from the first request that meets this."""
    back: list[float] = []

    def act(exchange: Exchange) -> None:
        back.append(clock() + AWAY_SECONDS)
        if clock() < back[0]:
            hang_up(exchange)
        else:
            exchange.answer(exchange.forward())

    return act


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Large enough for a multipart upload and several ranges."""
    path = tmp_path / "source"
    path.write_bytes(os.urandom(5 * MIB + 9))
    return path


def _fetch(store: S3Store, source: Path, folder: Path) -> None:
    info = store.head("in/model")
    store.get(info, folder / "model")
    assert (folder / "model").read_bytes() == source.read_bytes()


def _preflight(store: S3Store, source: Path, folder: Path) -> None:
    uri = parse(f"s3://{store.bucket.name}/in/")
    assert preflight([Reading("baseModel.uri", store, uri)], store, REX, budget_seconds=PREFLIGHT_SECONDS).conditional


def _save(store: S3Store, source: Path, folder: Path) -> None:
    checkpoints = Checkpoints(store, REX.checkpoints, REX.attempt)
    checkpoints.save(7, {"state": source})
    found = checkpoints.newest_complete(folder)
    assert found is not None
    assert found.step == 7


def _publish(store: ObjectStore, source: Path, folder: Path) -> None:
    def build(files: tuple[File, ...]) -> Manifest:
        return Manifest(
            job_uid=REX.job_uid, name="rex", attempt=REX.attempt, files=files, base_model_digest="0" * 64, inputs={},
            config={}, spec_digest="0" * 64, metrics={}, created_at=datetime.now(UTC),
        )  # fmt: skip

    assert not publish(store, REX, {"model": source}, build).already


WORK: dict[str, Callable[[S3Store, Path, Path], None]] = {
    "preflight": _preflight, "fetch": _fetch, "checkpoint": _save, "publish": _publish,
}  # fmt: skip


@pytest.mark.parametrize("work", WORK)
def test_a_minute_without_the_store_at_any_request_is_waited_for(
    faulty: Faulty, store: S3Store, clock: Clock, source: Path, tmp_path: Path, work: str
) -> None:
    faulty.bucket.client.upload_file(str(source), faulty.bucket.name, "in/model")

    def run(moment: int) -> int:
        """Away from request number `moment` on; how many requests it took in all."""
        faulty.proxy.calm()
        faulty.proxy.requests.clear()
        started = clock()
        faulty.proxy.add(away(clock), first=moment, count=float("inf"))
        WORK[work](store, source, tmp_path / str(moment))
        assert moment > 10_000 or clock() - started >= AWAY_SECONDS
        for item in faulty.bucket.client.list_objects_v2(Bucket=faulty.bucket.name, Prefix="out/").get("Contents", []):
            faulty.bucket.client.delete_object(Bucket=faulty.bucket.name, Key=item["Key"])
        return len(faulty.proxy.requests)

    requests = run(moment=1_000_000)
    for moment in range(1, requests + 1):
        run(moment)


def test_training_goes_on_while_a_checkpoint_waits_for_the_store(
    faulty: Faulty, store: S3Store, source: Path, tmp_path: Path
) -> None:
    """The saver's waiting holds its own thread alone; the loop asks whether it is idle and trains on."""
    waits, back = threading.Event(), threading.Event()

    def sleep(seconds: float) -> None:
        waits.set()
        back.wait(60)

    patient = replace(store, bucket=replace(store.bucket, retrying=replace(store.bucket.retrying, sleep=sleep)))
    saved: list[int] = []
    saver = BackgroundSaver(Checkpoints(patient, REX.checkpoints, REX.attempt), saved.append)
    faulty.proxy.add(hang_up)
    saver.start(7, {"state": source})
    assert waits.wait(60)
    assert not saver.idle
    back.set()
    assert saver.wait(60)
    assert saved == [7]


def test_every_default_budget_is_at_least_five_minutes() -> None:
    assert min(Retrying().budget_seconds, PREFLIGHT_SECONDS) >= PROMISED_SECONDS
