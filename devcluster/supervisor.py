"""A cluster that outlives the command that started it: `up`, `down`, and the daemon between them.

The daemon owns every program and every file of the cluster in one folder. It holds a lock on `<folder>/owner` from
before it is started, handed over by `up`, so whoever finds the lock free knows that nobody is left, whatever was
killed at whatever moment; and that what still lies there is waste.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

import urllib3

from devcluster.cluster import Cluster, wait_until
from devcluster.kube import Access, ApiError, Kube
from devcluster.operator import OperatorProcess
from devcluster.processes import DidNotStart, Identity, port_answers
from devcluster.s3 import S3Access
from devcluster.toolchain import Say, tools

START_SECONDS = 300
STOP_SECONDS = 30
WATCH_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Running:
    """How to reach a running cluster; written for others once all of it is ready."""

    folder: str
    server: str
    kubectl: str
    s3: S3Access

    @property
    def kubeconfig(self) -> Path:
        return Path(self.folder) / "kubeconfig"

    @property
    def kube(self) -> Kube:
        pki = Path(self.folder) / "pki"
        return Kube(Access(self.server, pki / "ca.crt", pki / "admin.crt", pki / "admin.key"))

    def write(self) -> None:
        path = _ready_file(Path(self.folder))
        temporary = path.with_name(f".{path.name}")
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps(asdict(self)))
        temporary.rename(path)

    @classmethod
    def read(cls, folder: Path) -> Running | None:
        try:
            values = json.loads(_ready_file(folder).read_text())
        except OSError:
            return None
        return cls(**values | {"s3": S3Access(**values["s3"])})

    def healthy(self) -> bool:
        try:
            port = urllib3.util.parse_url(self.s3.endpoint).port
            return self.kube.get("/readyz")["text"] == "ok" and port is not None and port_answers(port)
        except (ApiError, urllib3.exceptions.HTTPError, OSError):
            return False


def up(folder: Path, say: Say) -> Running:
    """The cluster in `folder`: the running one, or a new one in place of a broken one or none. Raises DidNotStart."""
    tools(say)
    with _command_lock(folder):
        running = status(folder)
        if running and running.healthy():
            return running
        _down(folder)
        say("Starting etcd, kube-apiserver, kube-controller-manager, kube-scheduler, S3 server, node and operator ...")
        started = time.monotonic()
        running = _launch(folder)
        say(f"Ready in {time.monotonic() - started:.0f} s.")
        return running


def down(folder: Path) -> None:
    """Ends every process of the cluster and removes its folder. Harmless when there is nothing."""
    with _command_lock(folder):
        _down(folder)


def status(folder: Path) -> Running | None:
    """The cluster, when its daemon lives and it was ready at some time."""
    return Running.read(folder) if _owned(folder) else None


def _launch(folder: Path) -> Running:
    (folder / "logs").mkdir(parents=True, mode=0o700)
    folder.chmod(0o700)  # pods' working data and credentials lie in it
    lock = os.open(_owner_file(folder), os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX)
    try:
        with (folder / "logs" / "supervisor.log").open("wb") as log:
            subprocess.run(
                [sys.executable, "-m", "devcluster.supervisor", folder],
                pass_fds=[lock],  # the lock is the daemon's as soon as there is one
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
                start_new_session=True,
                check=True,
            )
    finally:
        os.close(lock)
    wait_until(lambda: _ready_file(folder).exists() or not _owned(folder), "the cluster", START_SECONDS)
    running = Running.read(folder)
    if running is None:
        tail = (folder / "logs" / "supervisor.log").read_text(errors="replace")[-1500:]
        raise DidNotStart(f"the cluster did not start; {folder / 'logs'} has every program's log:\n{tail}")
    return running


def _down(folder: Path) -> None:
    if not folder.exists():
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        if _owned(folder):
            _end_daemon(folder, number)
    # What a killed daemon leaves dies by itself, but may still write for a moment.
    wait_until(lambda: _removed(folder), f"removal of {folder}", STOP_SECONDS)


def _end_daemon(folder: Path, number: signal.Signals) -> None:
    """Signals it until it is gone; it may be so young that it has not written down yet who it is."""

    def gone() -> bool:
        if identity := Identity.read(_owner_file(folder)):
            identity.send(number)
        return not _owned(folder)

    try:
        wait_until(gone, "the end of the cluster", STOP_SECONDS)
    except TimeoutError:
        if number == signal.SIGKILL:
            raise


def _removed(folder: Path) -> bool:
    shutil.rmtree(folder, ignore_errors=True)
    return not folder.exists()


def _owned(folder: Path) -> bool:
    """Whether a daemon lives: the kernel drops its lock when it does not."""
    try:
        handle = os.open(_owner_file(folder), os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


@contextmanager
def _command_lock(folder: Path) -> Iterator[None]:
    """One `up` or `down` at a time; beside the folder, because the folder comes and goes."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _owner_file(folder: Path) -> Path:
    return folder / "owner"


def _ready_file(folder: Path) -> Path:
    return folder / "cluster.json"


def _run_daemon(folder: Path) -> None:
    """Until SIGTERM. The lock that `up` handed over stays open as long as this process lives."""
    signal.signal(signal.SIGTERM, _leave)
    identity = Identity.of(os.getpid())
    assert identity, "a living process finds itself in /proc"
    _owner_file(folder).write_text(identity.to_json())  # in place: the lock is on this very file
    from dreambooth_api.crd import crd

    with Cluster(folder) as cluster:
        cluster.install_crd(crd())
        cluster.add_node()
        operator = OperatorProcess(cluster)
        try:
            operator.start()
            Running(str(folder), cluster.control_plane.server, str(cluster.tools.kubectl), cluster.s3).write()
            _watch(cluster, operator)
        finally:
            operator.kill()


def _watch(cluster: Cluster, operator: OperatorProcess) -> None:
    """A cluster is all or nothing, but the operator may crash: it is started again, as a Deployment would."""
    while not (ended := cluster.ended()):
        if operator.program and operator.program.process.poll() is not None:
            print(f"operator ended with exit code {operator.program.process.returncode}; starting it again", flush=True)
            try:
                operator.start()
            except DidNotStart as error:
                print(error, flush=True)
        time.sleep(WATCH_SECONDS)
    print(f"{ended} ended; ending the cluster", flush=True)


def _leave(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; a second one must not interrupt the cleaning
    sys.exit(0)


if __name__ == "__main__":
    if os.fork():
        os._exit(0)  # the daemon is nobody's child
    _run_daemon(Path(sys.argv[1]))
