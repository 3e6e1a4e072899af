"""What a watch has told so far, as frozen records; workers read it instead of asking the API server.

Raw objects are projected once, when they arrive: a record is forty times smaller than the typed object and nobody can
change it by accident. `expect` keeps a worker from acting on a picture older than its own last write.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

from dreambooth_operator.queue import Key

EXPECTATION_SECONDS = 30.0  # after this the watch is not waited for any longer
REMEMBER_GONE_SECONDS = 300.0  # long enough for a worker to read a deleted pod's last words


class View(Protocol):
    """A projected object. `owner` is the key of the TrainingJob it concerns."""

    @property
    def key(self) -> Key: ...
    @property
    def owner(self) -> Key: ...
    @property
    def version(self) -> int: ...


V = TypeVar("V", bound=View)


class Store(Generic[V]):
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._views: dict[Key, V] = {}
        self._by_owner: dict[Key, set[Key]] = defaultdict(set)
        self._expected: dict[Key, dict[Key, tuple[int, float]]] = defaultdict(dict)  # owner -> key -> version, until
        self._gone: dict[Key, dict[Key, V]] = defaultdict(dict)  # owner -> key -> last state
        self._gone_since: deque[tuple[float, Key, Key]] = deque()

    def get(self, key: Key) -> V | None:
        with self._lock:
            return self._views.get(key)

    def owned_by(self, owner: Key) -> list[V]:
        with self._lock:
            return [self._views[key] for key in self._by_owner.get(owner, ())]

    def gone_of(self, owner: Key) -> list[V]:
        """The last states of objects deleted in the last minutes."""
        with self._lock:
            return list(self._gone.get(owner, {}).values())

    def all(self) -> list[V]:
        with self._lock:
            return list(self._views.values())

    def put(self, view: V) -> None:
        with self._lock:
            self._put(view)

    def remove(self, view: V) -> None:
        """`view` is the object's last state."""
        with self._lock:
            self._bury(view)
            self._met(view.owner, view.key, view.version)

    def replace(self, views: Iterable[V], version: int, namespace: str | None) -> list[V]:
        """Takes over a list of one namespace (or of all); returns the last known views of what has vanished."""
        fresh = {view.key: view for view in views}
        with self._lock:
            scope = {k: v for k, v in self._views.items() if namespace in (None, k[0])}
            gone = [view for key, view in scope.items() if key not in fresh]
            for view in gone:
                self._bury(view)
            for view in fresh.values():
                self._put(view)
            for owner in list(self._expected):
                for key in list(self._expected[owner]):
                    self._met(owner, key, version)
            return gone

    def expect(self, owner: Key, key: Key, version: int) -> None:
        """A write made `version` of `key`: what concerns `owner` is stale until the watch has shown it."""
        with self._lock:
            view = self._views.get(key)
            if view is None or view.version < version:
                self._expected[owner][key] = (version, self._clock() + EXPECTATION_SECONDS)

    def stale(self, owner: Key) -> bool:
        with self._lock:
            return any(until > self._clock() for _, until in self._expected.get(owner, {}).values())

    def _put(self, view: V) -> None:
        self._remove(view.key)
        self._views[view.key] = view
        self._by_owner[view.owner].add(view.key)
        self._met(view.owner, view.key, view.version)

    def _remove(self, key: Key) -> None:
        if view := self._views.pop(key, None):
            self._by_owner[view.owner].discard(key)
            if not self._by_owner[view.owner]:
                del self._by_owner[view.owner]

    def _bury(self, view: V) -> None:
        self._remove(view.key)
        now = self._clock()
        self._gone[view.owner][view.key] = view
        self._gone_since.append((now, view.owner, view.key))
        while self._gone_since[0][0] < now - REMEMBER_GONE_SECONDS:
            _, owner, key = self._gone_since.popleft()
            self._gone[owner].pop(key, None)
            if not self._gone[owner]:
                del self._gone[owner]

    def _met(self, owner: Key, key: Key, version: int) -> None:
        waits = self._expected.get(owner)
        if waits and key in waits and waits[key][0] <= version:
            del waits[key]
            if not waits:
                del self._expected[owner]
