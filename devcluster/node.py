"""The process node as its owner sees it: starts the agent (`agent.py`) as a program and waits until it is ready."""

from __future__ import annotations

import json
import os
import shlex
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from devcluster.controlplane import ControlPlane
from devcluster.processes import LOOPBACK, Program, start

START_SECONDS = 60
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"
LABEL = "dreambooth.dev/process-node"


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """What the agent needs to know; it reads them from a JSON file. Paths are strings there."""

    name: str
    folder: str  # pods/<uid>/ and logs/ are made in it
    server: str
    authority: str  # signs the API server's certificate, and the one it shows to us
    certificate: str
    key: str
    serving_certificate: str
    serving_key: str
    path: str  # PATH of the containers
    gpus: int = 0
    sync_seconds: float = 30  # how old a Secret's copy in a volume may become

    @classmethod
    def read(cls, path: Path) -> NodeSettings:
        return cls(**json.loads(path.read_text()))


class ProcessNode:
    """One node; `kill` and `start` again play its crash."""

    def __init__(self, control_plane: ControlPlane, folder: Path, name: str, gpus: int = 0) -> None:
        self.name, self._kube, self._folder = name, control_plane.admin, folder
        folder.mkdir(parents=True, exist_ok=True)
        access = control_plane.access(f"system:node:{name}", ["system:nodes"])
        serving = control_plane.serving_pair(f"{name}-serving", (LOOPBACK, name))
        settings = NodeSettings(
            name=name,
            folder=str(folder),
            server=access.server,
            authority=str(access.authority),
            certificate=str(access.certificate),
            key=str(access.key),
            serving_certificate=str(serving.certificate),
            serving_key=str(serving.key),
            path=os.pathsep.join([str(_image(folder / "image")), str(Path(sys.executable).parent), SYSTEM_PATH]),
            gpus=gpus,
        )
        self._settings = folder / "settings.json"
        self._settings.write_text(json.dumps(asdict(settings)))
        self.program: Program | None = None

    def start(self) -> None:
        """Returns when the scheduler may use the node. Raises DidNotStart."""
        command = [sys.executable, "-m", "devcluster.agent", str(self._settings)]
        env = {"PATH": os.defpath, "PYTHONPATH": str(Path(__file__).parents[1])}
        self.program = start(f"node-{self.name}", command, self._folder / "logs", env=env)
        self.program.wait_until(self._ready, START_SECONDS)

    def kill(self) -> None:
        """As a crash: the agent and every process of every pod are gone, and nobody has told the API server."""
        if self.program:
            self.program.kill()

    stop = kill

    def _ready(self) -> bool:
        node = self._kube.find(f"/api/v1/nodes/{self.name}")
        if not node or node["spec"].get("taints"):
            return False
        conditions = {condition["type"]: condition["status"] for condition in node["status"].get("conditions", ())}
        return conditions.get("Ready") == "True"


def _image(folder: Path) -> Path:
    """What the job's image is elsewhere: a folder with its command, which runs the code of this repository.

    The cores are shared with the whole cluster: torch's threads that wait actively for one another while they are not
    even scheduled made a convolution 20 times slower than threads that sleep (2 cores, 10 busy processes).
    """
    folder.mkdir(exist_ok=True)
    repository = Path(__file__).parents[1]
    modules = os.pathsep.join([str(repository / "api"), str(repository / "job")])
    command = folder / "dreambooth-job"
    environ = f"export PYTHONPATH={shlex.quote(modules)} OMP_WAIT_POLICY=PASSIVE"
    command.write_text(f'#!/bin/sh\n{environ}\nexec {shlex.quote(sys.executable)} -m dreambooth_job "$@"\n')
    command.chmod(0o755)
    return folder
