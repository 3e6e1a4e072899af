"""Runs one command and ends with it everything it started; run as a script: `shim.py PARENT_PID COMMAND ARG...`.

What a container runtime's shim and a PID namespace do, without root. The shim adopts every orphan below it
(PR_SET_CHILD_SUBREAPER), so nothing can escape by forking twice or by opening a session of its own. It ends when

- the command ends: the rest is killed, and the shim leaves with the command's code, or 128 + n for signal n;
- SIGTERM comes: passed on to the command alone, as a kubelet does;
- SIGUSR1 comes, or the shim's parent dies, by kill -9 too: everything is killed at once.

The command itself dies when the shim is killed. Exit 127: the command could not be started; stderr says why. Only the
standard library, and no site packages, so that it starts in some 10 ms. Linux only (prctl, /proc).
"""

import ctypes
import os
import signal
import sys

KILL_ALL = signal.SIGUSR1
CANNOT_START = 127

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_WAITED_FOR = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, KILL_ALL}


def main(parent_pid: int, command: list[str]) -> int:
    signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    _prctl(_PR_SET_PDEATHSIG, KILL_ALL)
    if os.getppid() != parent_pid:  # it died before it could be watched
        return 128 + signal.SIGKILL
    shim_pid = os.getpid()
    child = os.fork()
    if child == 0:
        _become(command, shim_pid)
    return _supervise(child)


def _prctl(option: int, value: int) -> None:
    ctypes.CDLL(None).prctl(option, int(value), 0, 0, 0)


def _become(command: list[str], shim_pid: int) -> None:
    """Never returns: this process is the command from here on, or ends."""
    try:
        os.setsid()
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != shim_pid:
            os._exit(CANNOT_START)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores these; a program expects the default
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, set())
        os.execvpe(command[0], command, os.environ)
    except OSError as error:
        os.write(2, f"cannot start {command[0]!r}: {error.strerror}\n".encode())
    finally:
        os._exit(CANNOT_START)


def _supervise(child: int) -> int:
    """Waits for the command and reaps orphans; returns the exit code."""
    while True:
        received = signal.sigwait(_WAITED_FOR)
        if received == KILL_ALL:
            _kill_descendants()
            return 128 + signal.SIGKILL
        if received in (signal.SIGTERM, signal.SIGINT):
            os.kill(child, signal.SIGTERM)  # not yet reaped, so the number is still the command's
        code = _reap(child)
        if code is not None:
            _kill_descendants()
            return code


def _reap(child: int) -> int | None:
    """Collects whoever has ended; the command's exit code when it is among them."""
    code = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return code
        if pid == 0:
            return code
        if pid == child:
            result = os.waitstatus_to_exitcode(status)
            code = result if result >= 0 else 128 - result


def _kill_descendants() -> None:
    """Kills children until none is left: the orphans of those killed come to us, and are killed next."""
    while children := _children(os.getpid()):
        for pid in children:
            os.kill(pid, signal.SIGKILL)
        for pid in children:
            os.waitpid(pid, 0)


def _children(parent_pid: int) -> list[int]:
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as stat:
                    after_name = stat.read().rpartition(b")")[2].split()
            except OSError:
                continue  # it ended while we looked
            if int(after_name[1]) == parent_pid:
                found.append(int(name))
    return found


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
