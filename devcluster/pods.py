"""One pod's life on the process node, in a thread of its own.

Level-based, as a kubelet's sync: look at what the containers do and what the API server wants, start or stop what is
due, publish the status, sleep until something happens.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import urllib3

from devcluster.containers import Container
from devcluster.environment import ConfigError, Object
from devcluster.kube import STRATEGIC_MERGE, ApiError, Kube
from devcluster.node import NodeSettings
from devcluster.podstatus import PodFacts, never_found, now, phase, status
from devcluster.volumes import Volumes

RETRY_SECONDS = 1.0  # after a missing Secret, or an API server that does not answer
FIRST_BACKOFF_SECONDS = 10.0  # between restarts of a container; doubles, as a kubelet's
LAST_BACKOFF_SECONDS = 300.0


@dataclass(frozen=True, slots=True)
class Stop:
    """Why the pod's containers are being ended, and when those that have not ended are killed."""

    kill_at: float  # monotonic
    reason: str = ""
    message: str = ""


class Pod:
    """Runs one pod until it has ended and the API server knows how, or until it is deleted there."""

    def __init__(self, pod: Object, settings: NodeSettings, kube: Kube, log: Callable[[str], None]) -> None:
        metadata = pod["metadata"]
        self.latest, self.uid = pod, metadata["uid"]
        self._settings, self._kube, self._log = settings, kube, log
        self._path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        self._folder = pod_folder(settings, self.uid)
        self._volumes = Volumes(pod, self._folder / "volumes", kube, self._lookup)
        self._init = [self._container(spec) for spec in pod["spec"].get("initContainers", ())]
        self._main = [self._container(spec) for spec in pod["spec"]["containers"]]
        self._wake = threading.Event()
        self._gone = False
        self._stop: Stop | None = None
        self._started, self._start_time = time.monotonic(), pod.get("status", {}).get("startTime") or now()
        self._volumes_due = 0.0
        self._volumes_ready = False
        self._restart_at: dict[str, float] = {}
        self._published: Object = {}

    def update(self, pod: Object) -> None:
        self.latest = pod
        self._wake.set()

    def gone(self) -> None:
        """The object has been deleted: kill at once, tell nobody."""
        self._gone = True
        self._wake.set()

    def containers(self) -> list[Container]:
        return [*self._init, *self._main]

    def run(self) -> None:
        """Returns when no process is left, the volumes are removed and the last status is written."""
        self._folder.mkdir(parents=True, exist_ok=True)
        while not self._step():
            self._wake.wait(self._next_seconds())
            self._wake.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _step(self) -> bool:
        try:
            return self._sync()
        except (ApiError, urllib3.exceptions.HTTPError) as error:
            self._log(f"{self._path}: {error}; trying again")
            time.sleep(RETRY_SECONDS)
            self._wake_up()
            return False

    def _sync(self) -> bool:
        for container in self.containers():
            container.reap()
        self._stop = self._stop or self._reason_to_stop()
        if self._gone or self._stop:
            self._end_containers()
        else:
            self._start_due()
        running = any(container.state.running for container in self.containers())
        over = (self._gone or self._stop is not None) and not running
        if over:
            self._settle_containers()
        facts = self._facts(over)
        if not self._gone:
            self._publish(facts)
        return not running and (over or phase(facts) in ("Succeeded", "Failed"))

    def _reason_to_stop(self) -> Stop | None:
        metadata, spec = self.latest["metadata"], self.latest["spec"]
        if "deletionTimestamp" in metadata:
            return Stop(time.monotonic() + metadata.get("deletionGracePeriodSeconds", 30))
        deadline = spec.get("activeDeadlineSeconds")
        if deadline is not None and time.monotonic() - self._started > deadline:
            grace = spec.get("terminationGracePeriodSeconds", 30)
            text = "Pod was active on the node longer than the specified deadline"
            return Stop(time.monotonic() + grace, "DeadlineExceeded", text)
        return None

    def _end_containers(self) -> None:
        """SIGTERM first; SIGKILL when the grace is over, when a later delete has shortened it, or nobody waits."""
        deleted = self.latest["metadata"].get("deletionGracePeriodSeconds")
        impatient = self._gone or deleted == 0 or (self._stop and time.monotonic() >= self._stop.kill_at)
        for container in self.containers():
            if impatient:
                container.kill()
            else:
                container.ask_to_stop()

    def _settle_containers(self) -> None:
        for container in self.containers():
            if container.state.ending is None:
                container.state.ending = never_found(container.state)

    def _start_due(self) -> None:
        """The next init container, or all main ones, where nothing keeps them from starting."""
        if phase(self._facts(False)) in ("Succeeded", "Failed"):
            return
        try:
            self._write_volumes()
        except ConfigError as error:
            self._all_wait("ContainerCreating", str(error))
            return
        waiting_init = [one for one in self._init if not (one.state.ending and one.state.ending.exit_code == 0)]
        for container in waiting_init[:1] or self._main:
            if container.state.ending and self._restarts(container):
                self._plan_restart(container)
            if not container.state.started_at and time.monotonic() >= self._restart_at.get(container.spec["name"], 0):
                self._start(container)

    def _start(self, container: Container) -> None:
        try:
            port = str(urlsplit(self._settings.server).port)
            container.start(self._volumes, self._lookup, self._settings.path, port)
        except ConfigError as error:
            container.state.waiting_reason, container.state.waiting_message = "CreateContainerConfigError", str(error)

    def _write_volumes(self) -> None:
        """Once before the first start, then at the node's pace, as Secrets change and tokens age."""
        if time.monotonic() >= self._volumes_due:
            try:
                self._volumes.write()
            except ConfigError:
                if not self._volumes_ready:
                    raise  # afterwards what is there stays
            self._volumes_ready = True
            self._volumes_due = time.monotonic() + self._settings.sync_seconds

    def _all_wait(self, reason: str, message: str) -> None:
        for container in self.containers():
            if not container.state.started_at:
                container.state.waiting_reason, container.state.waiting_message = reason, message

    def _restarts(self, container: Container) -> bool:
        """Whether the pod's policy starts a container again that has ended; an init container's success is final."""
        policy, ending = str(self.latest["spec"].get("restartPolicy", "Always")), container.state.ending
        if container in self._init:
            return policy != "Never"
        return policy == "Always" or (policy == "OnFailure" and ending is not None and ending.exit_code != 0)

    def _plan_restart(self, container: Container) -> None:
        seconds = min(FIRST_BACKOFF_SECONDS * 2**container.state.restarts, LAST_BACKOFF_SECONDS)
        self._restart_at[container.spec["name"]] = time.monotonic() + seconds
        container.prepare_restart(f"back-off {seconds:.0f}s restarting failed container={container.spec['name']}")

    def _next_seconds(self) -> float:
        """Until the next thing that happens by itself; the ends of processes and changes of the object wake us."""
        if self._stop:
            moments = [self._stop.kill_at]
        else:
            moments = [self._volumes_due, *self._restart_at.values()]
            if any(one.state.waiting_message for one in self.containers() if not one.state.started_at):
                moments.append(time.monotonic() + RETRY_SECONDS)
            if "activeDeadlineSeconds" in self.latest["spec"]:
                moments.append(self._started + self.latest["spec"]["activeDeadlineSeconds"])
        coming = [moment - time.monotonic() for moment in moments]
        return min([0.01 + seconds for seconds in coming if seconds > 0], default=RETRY_SECONDS)

    def _facts(self, over: bool) -> PodFacts:
        return PodFacts(
            start_time=self._start_time,
            restart_policy=self.latest["spec"].get("restartPolicy", "Always"),
            init=[container.state for container in self._init],
            main=[container.state for container in self._main],
            generation=self.latest["metadata"].get("generation"),
            stop_reason=self._stop.reason if self._stop else "",
            stop_message=self._stop.message if self._stop else "",
            over=over,
            conditions=self._published.get("conditions", ()),
        )

    def _publish(self, facts: PodFacts) -> None:
        wanted = status(facts)
        if wanted != self._published:
            patch = {"metadata": {"uid": self.uid}, "status": wanted}  # the UID makes it fail for a namesake
            try:
                self._kube.patch(f"{self._path}/status", patch, STRATEGIC_MERGE)
            except ApiError as error:
                if error.code not in (404, 409):
                    raise
                self._gone = True
                self._wake_up()
            self._published = wanted

    def _lookup(self, kind: str, name: str) -> Object | None:
        """A Secret or ConfigMap; the Node authorizer hides it until it has seen that a pod here refers to it."""
        namespace = self.latest["metadata"]["namespace"]
        try:
            return self._kube.find(f"/api/v1/namespaces/{namespace}/{kind}/{name}")
        except ApiError as error:
            if error.code == 403:
                raise ConfigError(str(error)) from error
            raise

    def _container(self, spec: Object) -> Container:
        folder, logs = self._folder / "containers" / spec["name"], log_folder(self._settings, self.latest)
        return Container(spec, self.latest, folder, logs / spec["name"], self._wake_up)

    def _wake_up(self) -> None:
        self._wake.set()


def pod_folder(settings: NodeSettings, uid: str) -> Path:
    """Exists from before the pod's first process until after its last status: the node's memory over a restart."""
    return Path(settings.folder) / "pods" / uid


def log_folder(settings: NodeSettings, pod: Object) -> Path:
    """Logs are kept when the pod goes; they go with the cluster."""
    metadata = pod["metadata"]
    name = f"{metadata['namespace']}_{metadata['name']}_{metadata['uid']}"
    return Path(settings.folder) / "logs" / name
