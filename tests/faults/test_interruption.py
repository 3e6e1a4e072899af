"""SIGTERM in the middle of a transfer: Interrupted within a second, whatever the store does; nothing half-written."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dreambooth_job.errors import Interrupted
from dreambooth_job.storage.preflight import Reading, preflight
from dreambooth_job.storage.publish import Output
from dreambooth_job.storage.s3 import MIB, S3Store
from dreambooth_job.storage.uris import parse
from tests.faults.proxy import drip, say_nothing, stall, status
from tests.faults.servers import Faulty

EVER = float("inf")


def _stoppable(faulty: Faulty) -> tuple[S3Store, threading.Event]:
    store, stop = faulty.store(budget_seconds=60), threading.Event()
    slow = replace(store.bucket, retrying=replace(store.bucket.retrying, stop=stop, base_seconds=30, cap_seconds=30))
    return replace(store, bucket=slow), stop


def _seconds_until_interrupted(stop: threading.Event, transfer: Callable[[], object]) -> float:
    moment = []

    def pull() -> None:
        moment.append(time.monotonic())
        stop.set()

    timer = threading.Timer(0.7, pull)
    timer.start()
    with pytest.raises(Interrupted):
        transfer()
    return time.monotonic() - moment[0]


@pytest.mark.parametrize(
    "fault", [drip(200_000), stall(100), status(503, "SlowDown")], ids=["dripping", "stalling", "in backoff"]
)
def test_a_download_stops_at_once_and_leaves_no_file(faulty: Faulty, tmp_path: Path, fault) -> None:
    faulty.bucket.client.put_object(Bucket=faulty.bucket.name, Key="in/a", Body=bytes(2 * MIB))
    store, stop = _stoppable(faulty)
    info = store.head("in/a")
    faulty.proxy.add(fault, method="GET", count=EVER)
    seconds = _seconds_until_interrupted(stop, lambda: store.get(info, tmp_path / "out" / "a"))
    assert seconds < 1
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("fault", [say_nothing, status(503, "SlowDown")], ids=["silent", "in backoff"])
def test_an_upload_stops_at_once_and_is_aborted(faulty: Faulty, tmp_path: Path, fault) -> None:
    (tmp_path / "source").write_bytes(bytes(11 * MIB))
    store, stop = _stoppable(faulty)
    faulty.proxy.add(fault, query="partNumber", count=EVER)
    seconds = _seconds_until_interrupted(stop, lambda: store.put(tmp_path / "source", "out/a"))
    assert seconds < 1.5  # the abort is waited for 0.7 s, then goes on in the background
    assert _within(5, lambda: not faulty.unfinished_uploads())


def _within(seconds: float, true: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.05)
    return true()


@pytest.mark.parametrize("ask", ["head", "list"])
def test_a_small_request_to_a_silent_store_stops_at_once(faulty: Faulty, ask: str) -> None:
    store, stop = _stoppable(faulty)
    faulty.proxy.add(say_nothing, count=EVER)
    assert _seconds_until_interrupted(stop, lambda: list(getattr(store, ask)("a") or ())) < 1


def test_a_preflight_of_a_silent_store_stops_at_once(faulty: Faulty) -> None:
    store, stop = _stoppable(faulty)
    faulty.proxy.add(say_nothing, count=EVER)
    output = Output("out/", "11111111-aaaa", "rex-11111111-r0-aaaaaaaa")
    reading = Reading("baseModel.uri", store, parse(f"s3://{faulty.bucket.name}/in/"))
    assert _seconds_until_interrupted(stop, lambda: preflight([reading], store, output, budget_seconds=60)) < 1
    stop.clear()
    assert _seconds_until_interrupted(stop, lambda: preflight([], store, output, budget_seconds=60)) < 1


def test_the_last_checkpoint_can_still_be_written_after_the_stop(faulty: Faulty, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"state")
    store, stop = _stoppable(faulty)
    stop.set()
    with pytest.raises(Interrupted):
        store.put(tmp_path / "source", "checkpoint")
    store.within(10, deaf=True).put(tmp_path / "source", "checkpoint")
    assert store.within(10, deaf=True).head("checkpoint")
