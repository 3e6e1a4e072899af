"""Tasks on a few daemon threads, their results in order; a failure or a stop ends the waiting at once.

The standard pool joins its threads at exit: one stalled socket would hold the process past its grace period.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from typing import TypeVar

from dreambooth_job.storage.failures import TransferFault
from dreambooth_job.storage.retrying import FLOOR_BYTES_PER_SECOND, check

T = TypeVar("T")
Task = Callable[[threading.Event], T]  # gets `cancelled`: set when nobody waits for its result any more
_POLL_SECONDS = 0.1


def in_order(tasks: Sequence[Task[T]], width: int, stop: threading.Event) -> Iterator[T]:
    """Raises the first failure of any task as soon as it happens, and Interrupted when `stop` is set."""
    futures: list[Future[T]] = [Future() for _ in tasks]
    cancelled, failed = threading.Event(), threading.Event()
    queue = iter(zip(tasks, futures, strict=True))
    lock = threading.Lock()

    def work() -> None:
        while not cancelled.is_set():
            with lock:
                task, future = next(queue, (None, None))
            if task is None or future is None:
                return
            try:
                future.set_result(task(cancelled))
            except BaseException as error:
                failed.set()
                future.set_exception(error)

    for _ in range(min(width, len(futures))):
        threading.Thread(target=work, name="transfer", daemon=True).start()
    try:
        for future in futures:
            yield _wait(future, futures, failed, stop)
    finally:
        cancelled.set()


def _wait(future: Future[T], futures: Sequence[Future[T]], failed: threading.Event, stop: threading.Event) -> T:
    while True:
        check(stop)
        if failed.is_set():
            for other in futures:
                if other.done():
                    other.result()
        if wait([future], timeout=_POLL_SECONDS).done:
            return future.result()


class Watchdog:
    """Counts one request's bytes; a window of 20 s with less than 64 KB/s is a fault.

    A socket's own timeout does not see a slow drip: each byte winds it up again.
    """

    def __init__(self, window_seconds: float = 20.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._window_seconds, self._clock = window_seconds, clock
        self._since, self._bytes = clock(), 0

    def count(self, size_bytes: int) -> None:
        self._bytes += size_bytes
        elapsed = self._clock() - self._since
        if elapsed < self._window_seconds:
            return
        if self._bytes < FLOOR_BYTES_PER_SECOND * elapsed:
            raise TransferFault(f"{self._bytes} bytes in {elapsed:.0f} s")
        self._since, self._bytes = self._clock(), 0
