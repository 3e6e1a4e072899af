"""`dreambooth-operator`: settings -> cluster -> election -> controller. `dreambooth-operator doctor` checks the set-up.

Exit codes: 0 after SIGTERM, 1 when the Lease was lost (start again, as a standby), 2 when it cannot start.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable

import structlog
import urllib3

from dreambooth_api.logs import configure
from dreambooth_operator import doctor, metrics
from dreambooth_operator.cluster import Cluster, ClusterError, connect
from dreambooth_operator.controller import Controller
from dreambooth_operator.election import Election, Fenced, Terms
from dreambooth_operator.endpoints import Answer, Request, Server, health_routes, progress_routes, serve
from dreambooth_operator.loop import WATCH_SECONDS
from dreambooth_operator.relay import Relay
from dreambooth_operator.settings import SettingError, Settings, from_environment

log = structlog.get_logger()


class Operator:
    """One replica: its two servers, its part in the election, and a controller while it leads."""

    def __init__(
        self,
        cluster: Cluster,
        settings: Settings,
        election: Election | None = None,
        *,
        watch_seconds: tuple[int, int] = WATCH_SECONDS,
    ) -> None:
        """Without `election` this replica is the only one, and works at once."""
        self._cluster = Fenced(cluster, election.holds) if election else cluster
        self._settings, self._election, self._watch_seconds = settings, election, watch_seconds
        self._controller: Controller | None = None
        self._relay = Relay(lambda: election.leader_url if election else "")
        self._servers: list[Server] = []
        self._stop = threading.Event()
        self._candidate: threading.Thread | None = None

    def start(self, lost: Callable[[], None] = lambda: None) -> None:
        """`lost` is called when the Lease is. Raises OSError when an address cannot be listened on."""
        self._servers = [serve(self._settings.health_listen, health_routes(self._healthy, self._ready))]
        self._servers.append(serve(self._settings.progress_listen, progress_routes(self._take_progress)))
        if self._election is None:
            metrics.LEADER.set(1)
            self._lead()
        else:
            run = self._election.run
            self._candidate = threading.Thread(
                target=run, args=(self._stop, self._lead, lost), name="election", daemon=True
            )
            self._candidate.start()

    def stop(self) -> None:
        """Takes no more work, waits for what runs, and only then frees the Lease."""
        self._stop_controller()
        self._stop.set()
        if self._election and self._candidate:
            self._candidate.join()
            self._stop_controller()  # elected at the last moment
            try:
                self._election.release()
            except ClusterError as error:
                log.warning("lease_not_released", error=str(error))
        for server in self._servers:
            server.shutdown()
            server.server_close()

    @property
    def lost(self) -> bool:
        return self._election is not None and self._election.lost

    def states(self) -> Iterable[str]:
        return self._controller.states() if self._controller else ()

    def _lead(self) -> None:
        self._controller = Controller(self._cluster, self._settings, self._watch_seconds)
        self._controller.start()

    def _stop_controller(self) -> None:
        if self._controller:
            self._controller.stop(0 if self.lost else self._settings.stop_grace_seconds)

    def _healthy(self) -> bool:
        mind = self._controller or self._election
        return mind is not None and mind.healthy() and not self.lost

    def _ready(self) -> bool:
        if self._controller:
            return self._controller.synced()
        return self._election is not None and self._election.ready()

    def _take_progress(self, request: Request) -> Answer:
        return self._controller.take_progress(request) if self._controller else self._relay.post(request)


def main() -> int:
    parser = argparse.ArgumentParser(prog="dreambooth-operator", description="Turns TrainingJobs into Jobs.")
    parser.add_argument("command", nargs="?", choices=["run", "doctor"], default="run", help="default: run")
    command = parser.parse_args().command
    configure(process="operator")
    try:
        settings = from_environment()
        return doctor.main(settings) if command == "doctor" else run(settings)
    except (SettingError, ClusterError, OSError) as error:
        log.error("cannot_start", error=str(error))
        return 2


def run(settings: Settings) -> int:
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    cluster = connect(settings.workers + 16, metrics.count_call)
    operator = Operator(cluster, settings, election(settings))
    operator.start(lost=stop.set)
    metrics.REGISTRY.register(metrics.JobsByState(operator.states))
    log.info("started", namespaces=settings.namespaces or "all", workers=settings.workers)
    stop.wait()
    if operator.lost:
        sys.stderr.flush()
        os._exit(1)  # at once: no thread that is still at work may outlive the Lease
    log.info("stopping")
    operator.stop()
    return 0


def election(settings: Settings) -> Election | None:
    """None without a Lease in the settings. Its calls have connections of their own, and give up early."""
    if settings.lease is None:
        return None
    if settings.identity is None:
        raise SettingError("DREAMBOOTH_IDENTITY is not set; with DREAMBOOTH_LEASE, set it to the pod's name")
    terms = Terms(settings.lease_seconds)
    leases = connect(2, metrics.count_call, timeout=urllib3.Timeout(total=terms.call_seconds))
    return Election(leases, settings.lease, settings.identity, progress_url(settings), terms)


def progress_url(settings: Settings) -> str:
    """Where the other replicas reach this one; empty when it is not known."""
    host = settings.pod_ip or ""
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.progress_listen[1]}" if host else ""


if __name__ == "__main__":
    sys.exit(main())
