"""Starting, recognising and stopping the cluster's programs; and finding free ports for them.

Every program runs under `shim.py`, so it dies with the process that started it, even by kill -9. A process that is
known only by a number from a file is recognised by its start time as well: numbers are given again, and a stranger's
process is never killed.
"""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from devcluster import shim

# Below the range from which Linux takes the source ports of outgoing connections: none of those can be in the way
# when a program opens its port, or opens it again after a restart.
PORTS = range(20_000, 32_000)
PORT_ATTEMPTS = 3
LOOPBACK = "127.0.0.1"

# The kernel's "parent" in PR_SET_PDEATHSIG is the thread that started the child. This one lives as long as we do.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="starter")


class DidNotStart(Exception):
    """A program ended or did not answer in time; the message names it and its log, and ends with the log's tail."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A process for certain: no other one has the same number, start time and boot."""

    pid: int
    start_ticks: int  # since boot, field 22 of /proc/<pid>/stat
    boot_id: str

    @classmethod
    def of(cls, pid: int) -> Identity | None:
        """None when there is no such process, or only a zombie that nobody has collected yet."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        if fields[0] == "Z":
            return None
        return cls(pid, int(fields[19]), Path("/proc/sys/kernel/random/boot_id").read_text().strip())

    @classmethod
    def read(cls, path: Path) -> Identity | None:
        """From a file with `to_json` in it; None when it is missing or half-written."""
        try:
            return cls(**json.loads(path.read_text()))
        except (OSError, ValueError, TypeError):
            return None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def alive(self) -> bool:
        return Identity.of(self.pid) == self

    def send(self, number: signal.Signals) -> bool:
        """Signals the process if it is still the same; False when it is gone."""
        try:
            handle = os.pidfd_open(self.pid)  # pins the number, so that it cannot change hands after the check
        except ProcessLookupError:
            return False
        try:
            if not self.alive():
                return False
            signal.pidfd_send_signal(handle, number)
            return True
        except ProcessLookupError:
            return False
        finally:
            os.close(handle)


class Program:
    """One running program with its log."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.name, self.process, self.log = name, process, log

    def stop(self, grace_seconds: float = 5) -> None:
        """SIGTERM, and after the grace kills it and everything it started. Harmless when it has ended."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(grace_seconds)
            except subprocess.TimeoutExpired:
                self.kill()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(shim.KILL_ALL)
            self.process.wait()

    def wait_until(self, ready: Callable[[], bool], timeout_seconds: float) -> None:
        """Returns once `ready()` is true; an OSError in it counts as not ready. Raises DidNotStart."""
        deadline = time.monotonic() + timeout_seconds
        while not _answers(ready):
            if self.process.poll() is not None:
                raise DidNotStart(f"{self.name} ended with exit code {self.process.returncode}; {self._log_tail()}")
            if time.monotonic() > deadline:
                raise DidNotStart(f"{self.name} was not ready after {timeout_seconds:.0f} s; {self._log_tail()}")
            time.sleep(0.05)

    def _log_tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-8:]
        return f"its log {self.log} ends with:\n" + "\n".join(lines)


def _answers(ready: Callable[[], bool]) -> bool:
    try:
        return ready()
    except OSError:
        return False


def start(
    name: str, command: Sequence[str | Path], logs: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Program:
    """Runs the command under the shim, its output appended to `<logs>/<name>.log`; `env` None inherits ours."""
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{name}.log"
    with log.open("ab") as output:
        return Program(name, spawn(command, output=output, env=env, cwd=cwd), log)


def spawn(
    command: Sequence[str | Path], *, output: IO[bytes], env: Mapping[str, str] | None, cwd: Path | None
) -> subprocess.Popen[bytes]:
    """The bare process under the shim. A session of its own keeps the terminal's Ctrl-C away from it."""
    shimmed = [sys.executable, "-I", "-S", shim.__file__, str(os.getpid()), *map(str, command)]
    return _starter.submit(
        lambda: subprocess.Popen(
            shimmed, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    ).result()


def start_on_free_ports(count: int, start_on: Callable[..., None], give_up: Callable[[], None]) -> list[int]:
    """Calls `start_on(port, ...)` with loopback ports nobody listens on; again with others when a race for one is lost.

    `give_up` ends what a failed attempt has left. Returns the ports. Raises DidNotStart.
    """
    for attempts_left in reversed(range(PORT_ATTEMPTS)):
        ports = _free_ports(count)
        try:
            start_on(*ports)
            break
        except DidNotStart as error:
            give_up()
            if not attempts_left or "address already in use" not in str(error):
                raise
    return ports


def _free_ports(count: int) -> list[int]:
    found: set[int] = set()
    while len(found) < count:
        port = random.SystemRandom().choice(PORTS)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
        found.add(port)
    return sorted(found)


def port_answers(port: int, address: str = LOOPBACK) -> bool:
    """Whether somebody accepts connections on the port."""
    with socket.create_connection((address, port), timeout=1):
        return True
