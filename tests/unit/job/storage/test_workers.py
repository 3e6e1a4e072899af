from __future__ import annotations

import threading
import time

import pytest

from dreambooth_job.errors import Interrupted
from dreambooth_job.storage.failures import TransferFault
from dreambooth_job.storage.workers import Watchdog, in_order

CALM = threading.Event()


def test_results_come_in_order_however_long_each_takes() -> None:
    tasks = [lambda cancelled, n=n: (cancelled.wait((5 - n) / 200), n)[1] for n in range(5)]
    assert list(in_order(tasks, 3, CALM)) == [0, 1, 2, 3, 4]


def test_the_first_failure_ends_the_waiting_and_cancels_the_others() -> None:
    ended = threading.Event()

    def slow(cancelled: threading.Event) -> None:
        assert cancelled.wait(10)
        ended.set()

    def broken(cancelled: threading.Event) -> None:
        raise KeyError("broken")

    with pytest.raises(KeyError, match="broken"):
        list(in_order([slow, broken], 2, CALM))
    assert ended.wait(5)


def test_a_stop_does_not_wait_for_a_task_that_hangs() -> None:
    stop, release = threading.Event(), threading.Event()
    threading.Timer(0.05, stop.set).start()
    started = time.monotonic()
    with pytest.raises(Interrupted):
        list(in_order([lambda cancelled: release.wait(20)], 1, stop))
    assert time.monotonic() - started < 5
    release.set()


def test_a_tasks_own_timeout_is_its_failure() -> None:
    def late(cancelled: threading.Event) -> None:
        raise TimeoutError("late")

    with pytest.raises(TimeoutError, match="late"):
        list(in_order([late], 1, CALM))


def test_the_watchdog_bites_below_64_kilobytes_a_second() -> None:
    now = [0.0]
    watchdog = Watchdog(20, clock=lambda: now[0])
    for _ in range(3):  # enough in each window
        now[0] += 20
        watchdog.count(20 * 64 * 1024)
    now[0] += 19
    watchdog.count(1)
    now[0] += 1
    with pytest.raises(TransferFault, match="2 bytes in 20 s"):
        watchdog.count(1)
