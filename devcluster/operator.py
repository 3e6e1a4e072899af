"""The operator as its own process beside the cluster, with its own identity and exactly the rights of
`dreambooth_operator.rights`."""

from __future__ import annotations

import os
import sys
from http.client import HTTPConnection, HTTPException
from pathlib import Path

from devcluster.cluster import Cluster
from devcluster.kube import APPLY
from devcluster.processes import LOOPBACK, Program, start, start_on_free_ports
from devcluster.s3 import REGION
from dreambooth_operator.rights import RIGHTS, rules

NAME = "dreambooth-operator"
CREDENTIALS_SECRET = "bucket-credentials"  # looked for in the TrainingJob's namespace where its spec names none
START_SECONDS = 60
REPOSITORY = Path(__file__).parents[1]

_RBAC = "rbac.authorization.k8s.io"


class OperatorProcess:
    """`kill` and `start` again play its crash."""

    def __init__(self, cluster: Cluster, settings: dict[str, str] | None = None) -> None:
        """`settings` are environment variables of the operator, on top of those that fit this cluster."""
        self._cluster, self._extra = cluster, settings or {}
        self._kubeconfig = cluster.folder / "operator.kubeconfig"
        self.program: Program | None = None
        cluster.control_plane.access(NAME).write_kubeconfig(self._kubeconfig)
        _grant(cluster)

    def start(self) -> None:
        """Returns when its first lists are in. Raises DidNotStart."""
        start_on_free_ports(2, self._start, self.kill)

    def stop(self) -> None:
        """SIGTERM, as a Deployment's pod gets it."""
        if self.program:
            self.program.stop(grace_seconds=30)

    def kill(self) -> None:
        if self.program:
            self.program.kill()

    def _start(self, health_port: int, progress_port: int) -> None:
        env = {
            "PATH": os.defpath,
            "PYTHONPATH": os.pathsep.join(str(REPOSITORY / part) for part in ("api", "operator")),
            "KUBECONFIG": str(self._kubeconfig),
            "DREAMBOOTH_STORAGE_ENDPOINT": self._cluster.s3.endpoint,
            "DREAMBOOTH_STORAGE_REGION": REGION,
            "DREAMBOOTH_STORAGE_CREDENTIALS_SECRET": CREDENTIALS_SECRET,
            "DREAMBOOTH_HEALTH_LISTEN": f"{LOOPBACK}:{health_port}",
            "DREAMBOOTH_PROGRESS_LISTEN": f"{LOOPBACK}:{progress_port}",
            "DREAMBOOTH_PROGRESS_ADVERTISED_URL": f"http://{LOOPBACK}:{progress_port}",
        }
        command = [sys.executable, "-m", "dreambooth_operator"]
        self.program = start("operator", command, self._cluster.logs, env=env | self._extra)
        self.program.wait_until(lambda: _ready(health_port), START_SECONDS)


def _grant(cluster: Cluster) -> None:
    role = {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRole",
        "metadata": {"name": NAME},
        "rules": rules(RIGHTS, NAME),
    }
    binding = {
        "apiVersion": f"{_RBAC}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": NAME},
        "roleRef": {"apiGroup": _RBAC, "kind": "ClusterRole", "name": NAME},
        "subjects": [{"apiGroup": _RBAC, "kind": "User", "name": NAME}],
    }
    for plural, body in (("clusterroles", role), ("clusterrolebindings", binding)):
        path = f"/apis/{_RBAC}/v1/{plural}/{NAME}"
        cluster.kube.patch(path, body, APPLY, fieldManager="devcluster", force=True)


def _ready(port: int) -> bool:
    connection = HTTPConnection(LOOPBACK, port, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except HTTPException:
        return False
    finally:
        connection.close()
