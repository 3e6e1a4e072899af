"""The whole throw-away cluster: control plane, S3 server and, when asked for, one node of processes.

A cluster lives in one folder and dies with the process that started it. Folders of owners that were killed are removed
by whoever starts the next cluster in the same place.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from devcluster.controlplane import ControlPlane
from devcluster.kube import APPLY, Kube, Object
from devcluster.node import ProcessNode
from devcluster.processes import LOOPBACK
from devcluster.s3 import S3Access, S3Server
from devcluster.toolchain import Say, Tools, say_on_stderr, tools

CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


class Cluster:
    """One cluster below `folder`; use as a context manager, or `start` and `stop`."""

    def __init__(self, folder: Path, say: Say = say_on_stderr, address: str = LOOPBACK) -> None:
        """API server and S3 server listen on `address`, which a real node's pods must be able to reach."""
        self.folder = folder.absolute()
        self.tools: Tools = tools(say)
        self.control_plane = ControlPlane(self.tools, self.folder, address)
        self.s3_server = S3Server(self.tools.versitygw, self.folder / "s3", address)
        self.nodes: list[ProcessNode] = []

    def __enter__(self) -> Cluster:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when API server and S3 answer. Raises DidNotStart. Nodes come with `add_node`."""
        self.s3_server.start()
        self.control_plane.start()

    def stop(self) -> None:
        """Ends every program and every pod's process, at once; the folder stays."""
        while self.nodes:
            self.nodes.pop().stop()
        self.control_plane.stop()
        self.s3_server.stop()

    def add_node(self, name: str = "local", gpus: int = 0) -> ProcessNode:
        """A node that is ready for pods. `gpus` makes as many `nvidia.com/gpu` up, for what looks at scheduling."""
        node = ProcessNode(self.control_plane, self.folder / "nodes" / name, name, gpus)
        self.nodes.append(node)
        node.start()
        return node

    def ended(self) -> str | None:
        """The name of a program that should run and does not."""
        programs = [*self.control_plane.programs, self.s3_server.program, *(node.program for node in self.nodes)]
        return next((one.name for one in programs if one and one.process.poll() is not None), None)

    def add_namespace(self, name: str) -> None:
        """Returns when the namespace can take pods: its default ServiceAccount exists."""
        self.kube.create("/api/v1/namespaces", {"metadata": {"name": name}})
        account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
        wait_until(lambda: self.kube.find(account) is not None, f"ServiceAccount of namespace {name}")

    def install_crd(self, crd: Object) -> None:
        """Creates or updates the CustomResourceDefinition; returns when the API server serves it."""
        path = f"{CRDS}/{crd['metadata']['name']}"
        self.kube.patch(path, crd, APPLY, fieldManager="devcluster", force=True)
        wait_until(lambda: _established(self.kube.get(path)), f"CRD {crd['metadata']['name']}")

    @property
    def kube(self) -> Kube:
        """Requests as system:masters."""
        return self.control_plane.admin

    @property
    def kubeconfig(self) -> Path:
        return self.control_plane.kubeconfig

    @property
    def s3(self) -> S3Access:
        return self.s3_server.access

    @property
    def logs(self) -> Path:
        return self.control_plane.logs


def wait_until(ready: Callable[[], bool], what: str, timeout_seconds: float = 60) -> None:
    """Raises TimeoutError that names `what`."""
    deadline = time.monotonic() + timeout_seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not there after {timeout_seconds:.0f} s")
        time.sleep(0.05)


def _established(crd: Object) -> bool:
    conditions = crd.get("status", {}).get("conditions") or ()
    return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """A new folder below `parent`, removed at the end; those whose owners were killed are removed at the start."""
    parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        with _lock(parent / ".lock"):
            _sweep(parent)
            folder = Path(tempfile.mkdtemp(dir=parent, prefix="cluster-"))
            stack.enter_context(_lock(folder / ".owner"))  # held until we end, however we end
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _lock(path: Path, *, wait: bool = True) -> Iterator[Any]:
    """The kernel drops the lock when its holder dies. Raises BlockingIOError when held and not to wait for."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield
    finally:
        os.close(handle)


def _sweep(parent: Path) -> None:
    for folder in parent.glob("cluster-*"):
        try:
            with _lock(folder / ".owner", wait=False):
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # its owner lives, or somebody removes it now
