"""`python -m dreambooth_operator`: settings -> cluster -> loop. SIGTERM stops it gracefully, with exit code 0."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterable
from datetime import UTC, datetime

import structlog

from dreambooth_api.logs import configure
from dreambooth_operator import metrics
from dreambooth_operator.cluster import JOBS, PODS, TRAINING_JOBS, Cluster, ClusterError, connect
from dreambooth_operator.endpoints import Server, health_routes, serve
from dreambooth_operator.loop import WATCH_SECONDS, Loop, Reflector
from dreambooth_operator.observe import SELECTOR, Stores, project_child, project_pod, project_training_job
from dreambooth_operator.progress import ProgressBoard, ProgressDoor
from dreambooth_operator.queue import Key, Queue
from dreambooth_operator.reconcile import Reconciler
from dreambooth_operator.settings import SettingError, Settings, from_environment

log = structlog.get_logger()

KINDS = (  # resource, label selector, projection, and the name of its store
    (TRAINING_JOBS, "", project_training_job, "jobs"),
    (JOBS, SELECTOR, project_child, "children"),
    (PODS, SELECTOR, project_pod, "pods"),
)


class Operator:
    """Everything one process keeps in memory; dropping it and starting another loses nothing."""

    def __init__(self, cluster: Cluster, settings: Settings, *, watch_seconds: tuple[int, int] = WATCH_SECONDS) -> None:
        self._settings = settings
        self._stores = Stores()
        self._queue = Queue()
        self._servers: list[Server] = []
        board = ProgressBoard()
        reconciler = Reconciler(cluster, self._stores, board, settings, _now)
        self._door = ProgressDoor(cluster, self._stores, board, self._queue.add_after, _now)
        reflectors = [
            Reflector(
                cluster, resource, namespace, selector, project, getattr(self._stores, store), self._queue.add,
                watch_seconds=watch_seconds,
            )
            for resource, selector, project, store in KINDS
            for namespace in (settings.namespaces or (None,))
        ]  # fmt: skip
        self._loop = Loop(self._queue, reflectors, reconciler)

    def start(self) -> None:
        """Raises OSError when an address cannot be listened on."""
        routes = health_routes(self._loop.healthy, self._loop.synced)
        self._servers = [serve(self._settings.health_listen, routes)]
        self._servers.append(serve(self._settings.progress_listen, self._door.routes()))
        self._loop.start(self._settings.workers, self._keys, self._settings.resync_seconds)

    def stop(self) -> None:
        self._loop.stop(self._settings.stop_grace_seconds)
        for server in self._servers:
            server.shutdown()
            server.server_close()

    def states(self) -> Iterable[str]:
        return ((job.status.state if job.status else "") or "New" for job in self._stores.jobs.all())

    def _keys(self) -> list[Key]:
        return [job.key for job in self._stores.jobs.all()]


def _now() -> datetime:
    return datetime.now(UTC)


def main() -> int:
    configure(process="operator")
    try:
        settings = from_environment()
        cluster = connect(settings.workers + 16, metrics.count_call)
        operator = Operator(cluster, settings)
        operator.start()
    except (SettingError, ClusterError, OSError) as error:
        log.error("cannot_start", error=str(error))
        return 2
    metrics.REGISTRY.register(metrics.JobsByState(operator.states))
    log.info("started", namespaces=settings.namespaces or "all", workers=settings.workers)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    log.info("stopping")
    operator.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
