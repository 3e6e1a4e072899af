"""List, watch, queue, work: the only endless loops of the operator.

A reflector keeps one store equal to one kind of the cluster and puts the key of the TrainingJob concerned into the
queue; workers take keys and call `reconcile`. Events say only that something changed, never what to do about it.
The rules R1-R10 of this loop and where they come from are in docs/operator.md.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic

import structlog

from dreambooth_operator import metrics
from dreambooth_operator.cluster import Cluster, ClusterError, Conflict, Gone, Json, Resource
from dreambooth_operator.queue import Key, Queue
from dreambooth_operator.store import Store, V

log = structlog.get_logger()

FIRST_BACKOFF_SECONDS = 0.8
LAST_BACKOFF_SECONDS = 30.0
STABLE_SECONDS = 60.0  # a watch that lived this long ends the back-off
WATCH_SECONDS = (300, 600)
SILENT_SECONDS = 300.0  # no list, event or bookmark for so long: the process is unhealthy

Projection = Callable[[Json], V]
Reconcile = Callable[[Key], float | None]


class Reflector(Generic[V]):
    """Keeps `store` equal to the objects of one kind that carry `selector`."""

    def __init__(
        self,
        cluster: Cluster,
        resource: Resource,
        namespace: str | None,
        selector: str,
        project: Projection[V],
        store: Store[V],
        changed: Callable[[Key], None],
        *,
        watch_seconds: tuple[int, int] = WATCH_SECONDS,
    ) -> None:
        self._cluster, self._resource, self._namespace, self._selector = cluster, resource, namespace, selector
        self._project, self._store, self._changed = project, store, changed
        self._watch_seconds = watch_seconds
        self._stable_seconds = min(STABLE_SECONDS, watch_seconds[0])
        self._version: str | None = None
        self.synced = threading.Event()
        self.heard = time.monotonic()

    def run(self, stop: threading.Event) -> None:
        backoff = FIRST_BACKOFF_SECONDS
        while not stop.is_set():
            started = time.monotonic()
            try:
                self.turn(stop)
            except Exception as error:  # whatever it is, a dead watch would leave the operator deaf
                if stop.is_set():
                    return
                log.warning("watch_failed", resource=self._resource.plural, error=_words(error))
            if time.monotonic() - started >= self._stable_seconds:
                backoff = FIRST_BACKOFF_SECONDS
                continue
            metrics.WATCH_RESTARTS.labels(self._resource.plural).inc()
            stop.wait(backoff * random.uniform(0.5, 1.5))
            backoff = min(backoff * 2, LAST_BACKOFF_SECONDS)

    def turn(self, stop: threading.Event) -> None:
        """One list when needed, then one watch until it ends."""
        if self._version is None:
            self._relist()
        try:
            self._watch(stop)
        except Gone:
            self._version = None
            raise

    def _relist(self) -> None:
        listing = self._cluster.list(self._resource, self._namespace, self._selector)
        views = [view for item in listing.items if (view := self._view(item)) is not None]
        for gone in self._store.replace(views, int(listing.version), self._namespace):
            self._changed(gone.owner)
        for view in views:
            self._changed(view.owner)
        self._version = listing.version
        self.heard = time.monotonic()
        self.synced.set()

    def _watch(self, stop: threading.Event) -> None:
        assert self._version is not None
        seconds = random.randint(*self._watch_seconds)
        for event in self._cluster.watch(self._resource, self._namespace, self._selector, self._version, seconds):
            if stop.is_set():
                return
            self.heard = time.monotonic()
            self._take(event["type"], event["object"])
            self._version = event["object"]["metadata"]["resourceVersion"]

    def _take(self, type_: str, item: Json) -> None:
        if type_ == "BOOKMARK" or (view := self._view(item)) is None:
            return
        if type_ == "DELETED":
            self._store.remove(view)
        else:
            self._store.put(view)
        self._changed(view.owner)

    def _view(self, item: Json) -> V | None:
        """The projection; an object that cannot be read is left out, and the others are not made to wait for it."""
        try:
            return self._project(item)
        except Exception as error:
            metrics.UNREADABLE.labels(self._resource.plural).inc()
            log.error("object_unreadable", resource=self._resource.plural, error=type(error).__name__)
            return None


class Loop:
    """Reflectors and workers around one queue."""

    def __init__(self, queue: Queue, reflectors: Sequence[Reflector[Any]], reconcile: Reconcile) -> None:
        self._queue, self._reflectors, self._reconcile = queue, reflectors, reconcile
        self._stop = threading.Event()
        self._starter: threading.Thread | None = None
        self._workers: list[threading.Thread] = []

    def start(self, workers: int, keys: Callable[[], list[Key]], resync_seconds: float) -> None:
        """Watches first, and no worker before every store has been filled: absence means nothing until then."""
        for reflector in self._reflectors:
            _thread("watch", reflector.run, self._stop)
        self._starter = _thread("start", self._work_when_synced, workers)
        _thread("resync", self._resync, keys, resync_seconds)

    def stop(self, grace_seconds: float) -> None:
        """Takes no more work and waits for what runs."""
        self._stop.set()
        self._queue.close()
        until = time.monotonic() + grace_seconds
        if self._starter:
            self._starter.join(grace_seconds)  # from here on no worker is added
        for worker in self._workers:
            worker.join(max(0.0, until - time.monotonic()))

    def synced(self) -> bool:
        return all(reflector.synced.is_set() for reflector in self._reflectors)

    def healthy(self) -> bool:
        """Every watch was heard of lately: a process that answers pings and hears nothing is dead."""
        return all(time.monotonic() - r.heard < SILENT_SECONDS for r in self._reflectors)

    def _work_when_synced(self, workers: int) -> None:
        for reflector in self._reflectors:
            while not reflector.synced.wait(0.2):
                if self._stop.is_set():
                    return
        log.info("synced", kinds=len(self._reflectors), queued=len(self._queue))
        self._workers += [_thread("worker", self._work) for _ in range(workers)]

    def _work(self) -> None:
        while (key := self._queue.get()) is not None:
            try:
                self._work_on(key)
            finally:
                self._queue.done(key)

    def _work_on(self, key: Key) -> None:
        started = time.monotonic()
        result = "ok"
        try:
            after = self._reconcile(key)
            self._queue.forget(key)
            if after is not None:
                self._queue.add_after(key, after)
        except Exception as error:  # a poison object retries slowly and alone
            result = type(error).__name__
            seconds = self._queue.retry(key, getattr(error, "retry_after_seconds", None) or 0.0)
            if not isinstance(error, Conflict):
                log.warning(
                    "reconcile_failed",
                    namespace=key[0],
                    job=key[1],
                    error=_words(error),
                    retry_seconds=round(seconds, 1),
                )
        metrics.QUEUE_DEPTH.set(len(self._queue))
        metrics.RECONCILE_SECONDS.labels(result).observe(time.monotonic() - started)

    def _resync(self, keys: Callable[[], list[Key]], seconds: float) -> None:
        while not self._stop.wait(seconds * random.uniform(0.9, 1.1)):
            for key in keys():
                self._queue.add(key, urgent=False)


def _words(error: Exception) -> str:
    """An API error says what failed; of any other only the kind, because its text may hold a user's data."""
    return str(error) if isinstance(error, ClusterError) else type(error).__name__


def _thread(name: str, target: Callable[..., None], *args: object) -> threading.Thread:
    thread = threading.Thread(target=target, args=args, name=name, daemon=True)
    thread.start()
    return thread
