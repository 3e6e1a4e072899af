"""The queue between watches and workers: keys only, each at most once, one worker per key.

A key added while a worker has it runs again afterwards. Two lanes: what changed goes before what is merely looked at
again, so a resync of ten thousand objects never delays a new one. After the design of client-go's workqueue and
controller-runtime's priority queue.
"""

from __future__ import annotations

import heapq
import random
import threading
import time
from collections import deque
from collections.abc import Callable

Key = tuple[str, str]  # namespace, name

FIRST_RETRY_SECONDS = 0.05
LAST_RETRY_SECONDS = 300.0
RETRIES_PER_SECOND = 50.0  # of all keys together, after a burst of as many


class Queue:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._changed = threading.Condition()
        self._lanes: tuple[deque[Key], deque[Key]] = (deque(), deque())
        self._waiting: dict[Key, int] = {}  # key -> lane, for keys in a lane
        self._running: set[Key] = set()
        self._again: dict[Key, int] = {}  # added while running
        self._due: dict[Key, float] = {}  # earliest time asked for
        self._heap: list[tuple[float, Key]] = []
        self._failures: dict[Key, int] = {}
        self._next_retry = 0.0
        self._closed = False

    def __len__(self) -> int:
        with self._changed:
            return len(self._waiting)

    def add(self, key: Key, *, urgent: bool = True) -> None:
        with self._changed:
            self._add(key, 0 if urgent else 1)

    def add_after(self, key: Key, seconds: float) -> None:
        """`key` is due in `seconds`; of several wishes the earliest counts."""
        with self._changed:
            due = self._clock() + max(0.0, seconds)
            if due < self._due.get(key, float("inf")):
                self._due[key] = due
                heapq.heappush(self._heap, (due, key))
                self._changed.notify()

    def get(self) -> Key | None:
        """The next key, for this worker alone until `done`; None once the queue is closed."""
        with self._changed:
            while not self._closed:
                self._ripen()
                for lane in self._lanes:
                    while lane:
                        key = lane.popleft()
                        if self._waiting.get(key) == self._lanes.index(lane):
                            del self._waiting[key]
                            self._running.add(key)
                            return key
                self._changed.wait(self._heap[0][0] - self._clock() if self._heap else None)
            return None

    def done(self, key: Key) -> None:
        with self._changed:
            self._running.discard(key)
            if key in self._again:
                self._add(key, self._again.pop(key))

    def retry(self, key: Key, at_least_seconds: float = 0.0) -> float:
        """Adds `key` after its own exponential back-off and the budget of all keys; returns the seconds."""
        with self._changed:
            failures = self._failures.get(key, 0)
            self._failures[key] = min(failures + 1, 30)
            own = min(FIRST_RETRY_SECONDS * 2**failures, LAST_RETRY_SECONDS) * random.uniform(0.5, 1.0)
            now = self._clock()
            self._next_retry = max(self._next_retry, now - 1) + 1 / RETRIES_PER_SECOND
            seconds: float = max(own, at_least_seconds, self._next_retry - now)
        self.add_after(key, seconds)
        return seconds

    def forget(self, key: Key) -> None:
        """The key went well: its next failure starts from the shortest back-off."""
        with self._changed:
            self._failures.pop(key, None)

    def close(self) -> None:
        """No key is given out any more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _add(self, key: Key, lane: int) -> None:
        if key in self._running:
            self._again[key] = min(lane, self._again.get(key, lane))
        elif lane < self._waiting.get(key, 2):
            self._waiting[key] = lane  # an older entry in the slow lane is skipped when its turn comes
            self._lanes[lane].append(key)
            self._changed.notify()

    def _ripen(self) -> None:
        while self._heap and self._heap[0][0] <= self._clock():
            due, key = heapq.heappop(self._heap)
            if self._due.get(key) == due:  # else an earlier wish has taken its place
                del self._due[key]
                self._add(key, 0)
