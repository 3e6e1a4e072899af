"""What a working operator keeps in memory: stores, queue, progress and the loop around them.

A standby has none of it. Dropping it and making another, in this process or in any other, loses nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime

from dreambooth_operator.cluster import JOBS, PODS, TRAINING_JOBS, Cluster
from dreambooth_operator.endpoints import Answer, Request
from dreambooth_operator.loop import WATCH_SECONDS, Loop, Reflector
from dreambooth_operator.observe import SELECTOR, Stores, project_child, project_pod, project_training_job
from dreambooth_operator.progress import ProgressBoard, ProgressDoor
from dreambooth_operator.queue import Key, Queue
from dreambooth_operator.reconcile import Reconciler
from dreambooth_operator.settings import Settings

KINDS = (  # resource, label selector, projection, and the name of its store
    (TRAINING_JOBS, "", project_training_job, "jobs"),
    (JOBS, SELECTOR, project_child, "children"),
    (PODS, SELECTOR, project_pod, "pods"),
)


class Controller:
    def __init__(self, cluster: Cluster, settings: Settings, watch_seconds: tuple[int, int] = WATCH_SECONDS) -> None:
        self._settings = settings
        self._stores = Stores()
        queue, board = Queue(), ProgressBoard()
        reconciler = Reconciler(cluster, self._stores, board, settings, _now)
        self._door = ProgressDoor(cluster, self._stores, board, queue.add_after, _now)
        reflectors = [
            Reflector(
                cluster, resource, namespace, selector, project, getattr(self._stores, store), queue.add,
                watch_seconds=watch_seconds,
            )
            for resource, selector, project, store in KINDS
            for namespace in (settings.namespaces or (None,))
        ]  # fmt: skip
        self._loop = Loop(queue, reflectors, reconciler)
        self.healthy, self.synced = self._loop.healthy, self._loop.synced

    def start(self) -> None:
        self._loop.start(self._settings.workers, self._keys, self._settings.resync_seconds)

    def stop(self, grace_seconds: float) -> None:
        self._loop.stop(grace_seconds)

    def take_progress(self, request: Request) -> Answer:
        return self._door.post(request)

    def states(self) -> Iterable[str]:
        return ((job.status.state if job.status else "") or "New" for job in self._stores.jobs.all())

    def _keys(self) -> list[Key]:
        return [job.key for job in self._stores.jobs.all()]


def _now() -> datetime:
    return datetime.now(UTC)
