"""One container as a process: started, signalled, reaped; its log, its message file, its private folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

from devcluster import shim
from devcluster.environment import (
    NODE_ADDRESS,
    Lookup,
    Object,
    Paths,
    command_line,
    environment,
)
from devcluster.podstatus import ContainerState, Ending, ended, now, termination_message
from devcluster.processes import spawn
from devcluster.volumes import Volumes

DEFAULT_MESSAGE_PATH = "/dev/termination-log"
CANNOT_RUN = 128  # what a kubelet reports with StartError


class Container:
    """Started as often as the pod's restart policy wants. Not thread-safe: one pod's thread owns it."""

    def __init__(self, spec: Object, pod: Object, folder: Path, log_folder: Path, on_exit: Callable[[], None]) -> None:
        self.spec, self._pod, self._folder, self._log_folder, self._on_exit = spec, pod, folder, log_folder, on_exit
        self._process: subprocess.Popen[bytes] | None = None
        self._told_to_stop = False
        self.state = ContainerState(spec["name"], spec.get("image", ""), self._id(0))

    @property
    def log(self) -> Path:
        return self._log_folder / f"{self.state.restarts}.log"

    def start(self, volumes: Volumes, lookup: Lookup, path: str, server_port: str) -> None:
        """Runs the command; one that cannot be run ends at once, as StartError. Raises ConfigError."""
        real = volumes.mounts(self.spec) | {self._message_path: self._message_file}
        paths = Paths(real)
        base = self._base_environment(path, server_port)
        variables = environment(self.spec, self._pod, lookup, base)
        command = command_line(self.spec, variables, paths)
        env = {name: paths.rewrite(value) for name, value in variables.items()}
        self._make_folders()
        self.state.started_at = now()
        program = shutil.which(command[0], path=env.get("PATH"))
        if program is None:
            message = f'exec: "{command[0]}": executable file not found in $PATH'
            self.state.ending = Ending(CANNOT_RUN, "StartError", now(), now(), message)
            return
        with self.log.open("ab") as output:
            self._process = spawn([program, *command[1:]], output=output, env=env, cwd=self._working_folder(paths))
        threading.Thread(target=self._wait, args=(self._process,), daemon=True).start()

    def reap(self) -> None:
        """Turns a process that has ended into the container's ending."""
        if self._process is None or (code := self._process.poll()) is None or not self.state.started_at:
            return
        exit_code = code if code >= 0 else 128 - code
        policy = self.spec.get("terminationMessagePolicy", "File")
        message = termination_message(self._message_file, self.log, policy, exit_code)
        self.state.ending = ended(exit_code, self.state.started_at, message)
        self._process = None

    def ask_to_stop(self) -> None:
        """SIGTERM, once."""
        if self._process and not self._told_to_stop:
            self._told_to_stop = True
            self._process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the process and everything it started; `reap` will see it."""
        if self._process:
            self._process.send_signal(shim.KILL_ALL)

    def prepare_restart(self, wait_message: str) -> None:
        self.state.last_ending, self.state.ending, self.state.started_at = self.state.ending, None, None
        self.state.restarts += 1
        self.state.container_id = self._id(self.state.restarts)
        self.state.waiting_reason, self.state.waiting_message = "CrashLoopBackOff", wait_message

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        self._on_exit()

    def _id(self, restarts: int) -> str:
        return f"process://{self._pod['metadata']['uid']}-{self.spec['name']}-{restarts}"

    @property
    def _message_path(self) -> str:
        return str(self.spec.get("terminationMessagePath", DEFAULT_MESSAGE_PATH))

    @property
    def _message_file(self) -> Path:
        return self._folder / "termination-message"

    def _make_folders(self) -> None:
        (self._folder / "tmp").mkdir(parents=True, exist_ok=True)
        self._log_folder.mkdir(parents=True, exist_ok=True)
        self._message_file.write_bytes(b"")

    def _working_folder(self, paths: Paths) -> Path:
        """`workingDir` when it lies on a volume; there is no image that could hold another."""
        wanted = self.spec.get("workingDir", "")
        real = paths.rewrite(wanted)
        folder = Path(real) if real != wanted else self._folder
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _base_environment(self, path: str, server_port: str) -> dict[str, str]:
        """Nothing of the node's own environment; HOME and TMPDIR go with the pod, as a container's root does."""
        return {
            "PATH": path,
            "HOSTNAME": self._pod["metadata"]["name"],
            "HOME": str(self._folder),
            "TMPDIR": str(self._folder / "tmp"),
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            "KUBERNETES_SERVICE_HOST": NODE_ADDRESS,
            "KUBERNETES_SERVICE_PORT": server_port,
        }
