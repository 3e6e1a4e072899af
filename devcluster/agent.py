"""The process node's agent, a program of its own: `python -m devcluster.agent SETTINGS.json`.

Registers a Node, keeps its Lease, watches the pods bound to it and runs each in a thread; serves their logs to the API
server. It has the rights of a kubelet and no others. When it dies, so does every process of every pod; when it comes
back, pods it had begun are reported as failed.
"""

from __future__ import annotations

import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import urllib3

from devcluster.environment import NODE_ADDRESS, Object
from devcluster.kube import STRATEGIC_MERGE, Access, ApiError, Kube
from devcluster.logserver import LogServer
from devcluster.node import LABEL, NodeSettings
from devcluster.pods import Pod, pod_folder
from devcluster.podstatus import ContainerState, PodFacts, never_found, now, status

LEASE_SECONDS = 40
RENEW_SECONDS = 10
RETRY_SECONDS = 1.0
CAPACITY = {"cpu": "64", "memory": "256Gi", "pods": "500", "ephemeral-storage": "1Ti"}  # nothing here is limited
ENDED = ("Succeeded", "Failed")


class Agent:
    def __init__(self, settings: NodeSettings) -> None:
        self._settings = settings
        access = Access(settings.server, Path(settings.authority), Path(settings.certificate), Path(settings.key))
        self._kube = Kube(access)
        self._lock = threading.Lock()
        self._pods: dict[str, Pod] = {}  # by UID, those that a thread runs
        self._ended: set[str] = set()  # UIDs whose thread is done; late events must not start them again
        self._logs = LogServer(settings, self._container_runs)

    def run(self) -> None:
        """Never returns; the node's owner kills it."""
        threading.Thread(target=self._logs.serve_forever, daemon=True).start()
        self._register()
        threading.Thread(target=self._renew_forever, daemon=True).start()
        while True:
            try:
                self._follow_pods()
            except (ApiError, urllib3.exceptions.HTTPError) as error:
                if not (isinstance(error, ApiError) and error.code == 410):  # too old a version: just list again
                    say(f"watching pods: {error}; trying again")
                    time.sleep(RETRY_SECONDS)

    def _register(self) -> None:
        name, address = self._settings.name, [{"type": "InternalIP", "address": NODE_ADDRESS}]
        labels = {LABEL: "true", "kubernetes.io/hostname": name, "kubernetes.io/os": "linux"}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}}
        if self._kube.find(f"/api/v1/nodes/{name}") is None:
            self._kube.create("/api/v1/nodes", node)
        capacity = CAPACITY | ({"nvidia.com/gpu": str(self._settings.gpus)} if self._settings.gpus else {})
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "runs pods as processes"}
        self._kube.patch(
            f"/api/v1/nodes/{name}/status",
            {
                "status": {
                    "capacity": capacity,
                    "allocatable": capacity,
                    "addresses": [*address, {"type": "Hostname", "address": name}],
                    "daemonEndpoints": {"kubeletEndpoint": {"Port": self._logs.port}},
                    "conditions": [ready | {"lastHeartbeatTime": now(), "lastTransitionTime": now()}],
                    "nodeInfo": _node_info(),
                }
            },
            STRATEGIC_MERGE,
        )

    def _renew_forever(self) -> None:
        while True:
            try:
                self._renew()
            except (ApiError, urllib3.exceptions.HTTPError) as error:
                say(f"renewing the lease: {error}; trying again")
            time.sleep(RENEW_SECONDS)

    def _renew(self) -> None:
        leases, name = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", self._settings.name
        moment = time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime())
        spec = {"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": moment}
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": spec}
        try:
            self._kube.patch(f"{leases}/{name}", {"spec": spec})
        except ApiError as error:
            if error.code != 404:
                raise
            self._kube.create(leases, lease)

    def _follow_pods(self) -> None:
        selector = f"spec.nodeName={self._settings.name}"
        listed = self._kube.get("/api/v1/pods", fieldSelector=selector)
        self._forget_all_but({pod["metadata"]["uid"] for pod in listed["items"]})
        for pod in listed["items"]:
            self._see(pod)
        version = listed["metadata"]["resourceVersion"]
        for event in self._kube.watch("/api/v1/pods", fieldSelector=selector, resourceVersion=version):
            if event["type"] == "DELETED":
                self._logs.forget(event["object"])
                self._forget(event["object"]["metadata"]["uid"])
            elif event["type"] in ("ADDED", "MODIFIED"):
                self._see(event["object"])

    def _see(self, pod: Object) -> None:
        uid = pod["metadata"]["uid"]
        with self._lock:
            self._logs.know(pod)
            if uid in self._pods:
                self._pods[uid].update(pod)
                return
            ended = uid in self._ended or pod["status"].get("phase") in ENDED
            if not ended and not self._begun_before(pod):
                runner = self._pods[uid] = Pod(pod, self._settings, self._kube, say)
                threading.Thread(target=self._run, args=(runner,), name=uid).start()
                return
        if not ended:
            self._report_lost(pod)
        self._finish_deletion(pod)

    def _run(self, runner: Pod) -> None:
        try:
            runner.run()
        except Exception:
            say(traceback.format_exc())
        with self._lock:
            del self._pods[runner.uid]
            self._ended.add(runner.uid)
        _persistently(lambda: self._finish_deletion(runner.latest))

    def _container_runs(self, uid: str, container: str, restarts: int) -> bool:
        with self._lock:
            containers = self._pods[uid].containers() if uid in self._pods else []
        states = [one.state for one in containers if one.state.name == container]
        return any(state.restarts == restarts and state.ending is None for state in states)

    def _begun_before(self, pod: Object) -> bool:
        """Whether this node had begun the pod in an earlier life; its processes are gone."""
        return pod_folder(self._settings, pod["metadata"]["uid"]).exists() or "startTime" in pod["status"]

    def _report_lost(self, pod: Object) -> None:
        uid, metadata = pod["metadata"]["uid"], pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status"
        patch = {"metadata": {"uid": uid}, "status": _lost(pod)}
        self._kube.patch(path, patch, STRATEGIC_MERGE)
        shutil.rmtree(pod_folder(self._settings, uid), ignore_errors=True)
        self._ended.add(uid)

    def _finish_deletion(self, pod: Object) -> None:
        """The node has the last word on a deletion: nothing of the pod runs here any more."""
        metadata = pod["metadata"]
        if metadata.get("deletionTimestamp") and metadata.get("deletionGracePeriodSeconds") != 0:
            options = {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}}
            path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
            try:
                self._kube.delete(path, {"apiVersion": "v1", "kind": "DeleteOptions"} | options)
            except ApiError as error:
                if error.code != 409:  # another pod has the name now
                    raise

    def _forget(self, uid: str) -> None:
        with self._lock:
            self._ended.discard(uid)
            if uid in self._pods:
                self._pods[uid].gone()

    def _forget_all_but(self, uids: set[str]) -> None:
        with self._lock:
            gone = (set(self._pods) | self._ended) - uids
        for uid in gone:
            self._forget(uid)


def _persistently(act: Callable[[], None]) -> None:
    """Until the API server has taken it: nobody else would do it."""
    while True:
        try:
            return act()
        except (ApiError, urllib3.exceptions.HTTPError) as error:
            say(f"{error}; trying again")
            time.sleep(RETRY_SECONDS)


def _lost(pod: Object) -> Object:
    spec, before = pod["spec"], pod["status"]
    told = {one["name"]: one.get("state", {}).get("running", {}).get("startedAt") for one in _told(before)}

    def state(container: Object) -> ContainerState:
        name = container["name"]
        lost = ContainerState(name, container.get("image", ""), f"process://{pod['metadata']['uid']}-{name}-0")
        lost.started_at = told.get(name)
        lost.ending = never_found(lost)
        return lost

    return status(
        PodFacts(
            start_time=before.get("startTime") or now(),
            restart_policy=spec.get("restartPolicy", "Always"),
            init=[state(container) for container in spec.get("initContainers", ())],
            main=[state(container) for container in spec["containers"]],
            stop_reason="NodeRestarted",
            stop_message="The node's agent was restarted; the pod's processes ended with it.",
            over=True,
        )
    )


def _told(before: Object) -> list[Object]:
    return [*before.get("initContainerStatuses", ()), *before.get("containerStatuses", ())]


def _node_info() -> Object:
    """Every field is required; kubectl shows some of them."""
    empty = dict.fromkeys(("machineID", "systemUUID", "bootID", "kernelVersion", "kubeProxyVersion"), "")
    told = {"osImage": "processes of this machine", "containerRuntimeVersion": "process://1"}
    return empty | told | {"kubeletVersion": "devcluster", "operatingSystem": "linux", "architecture": "amd64"}


def say(line: str) -> None:
    print(time.strftime("%H:%M:%S"), line, flush=True)


if __name__ == "__main__":
    Agent(NodeSettings.read(Path(sys.argv[1]))).run()
