"""The cluster under test as its user sees it: `kubectl`, `helm`, two images and a bucket.

Without $KUBECONFIG it is a real node of our own. With it, any cluster: then $E2E_OPERATOR_IMAGE and $E2E_JOB_IMAGE name
the images as that cluster pulls them, and $E2E_ADDRESS is an address of this machine that its pods reach; the S3 server
listens there. What needs a hand on the node itself is left out on such a cluster.
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from devcluster.cluster import Cluster
from devcluster.images import build, layout_dir
from devcluster.realnode import Cable, RealNode
from devcluster.s3 import S3Access, S3Server
from devcluster.toolchain import node_tools, tools

Object = dict[str, Any]
CHART = Path(__file__).parents[2] / "helm" / "dreambooth-operator"
SECRET = "bucket-credentials"
ANY_USER = 123456
RESTRICTED = {f"pod-security.kubernetes.io/{mode}": "restricted" for mode in ("enforce", "warn", "audit")}


class CommandFailed(AssertionError):
    """kubectl or helm did not do it; the message holds what it printed."""


@dataclass(frozen=True)
class Kubectl:
    program: Path
    kubeconfig: Path

    def __call__(self, *arguments: str, given: str | None = None, timeout: float = 180) -> str:
        command = [str(self.program), f"--kubeconfig={self.kubeconfig}", *arguments]
        done = subprocess.run(command, input=given, capture_output=True, text=True, timeout=timeout)
        if done.returncode:
            raise CommandFailed(f"kubectl {' '.join(arguments)}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def apply(self, *objects: Object) -> None:
        """As JSON: to kubectl's YAML reader, an access key such as 12345E4 would be a number."""
        self("apply", "-f", "-", given=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}))

    def get(self, *arguments: str) -> Object:
        return json.loads(self("get", *arguments, "-o", "json"))

    def items(self, *arguments: str) -> list[Object]:
        return self.get(*arguments)["items"]


@dataclass(frozen=True)
class Helm:
    program: Path
    kubeconfig: Path
    home: Path

    def __call__(self, *arguments: str, timeout: float = 400) -> str:
        """Against $KUBECONFIG's cluster, with nothing read from or left in the user's home folder."""
        env = {"PATH": os.defpath, "KUBECONFIG": str(self.kubeconfig), "HOME": str(self.home)}
        command = [str(self.program), *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=env)
        if done.returncode:
            raise CommandFailed(f"helm {' '.join(arguments)}: {done.stderr.strip()}\n{done.stdout.strip()}")
        return done.stdout


@dataclass(frozen=True)
class Site:
    kubectl: Kubectl
    helm: Helm
    operator_image: Object  # as the chart's `image` value
    job_image: Object
    s3_server: S3Server
    folder: Path
    node: RealNode | None = None  # ours, when it is
    release: str = field(default_factory=lambda: f"dreambooth-{secrets.token_hex(3)}")
    """The chart's release, and the namespace it is in: fresh ones, since the cluster may be somebody's."""

    @property
    def s3(self) -> S3Access:
        return self.s3_server.access

    def values(self) -> Object:
        """Of the chart: images by digest, and storage as a platform team would set it up."""
        return {
            "image": self.operator_image,
            "job": {"image": self.job_image},
            "storage": {"endpoint": self.s3.endpoint, "credentialsSecret": SECRET},
            "doctor": {"bucketUri": "s3://results/doctor/"},
        }

    def install(self, chart: Path = CHART, **more: Any) -> str:
        """Installs or upgrades the release; returns the notes once every replica is available."""
        values = self.folder / "values.yaml"
        values.write_text(yaml.safe_dump(self.values() | more))
        release = [self.release, str(chart), "--namespace", self.release, "--values", str(values)]
        return self.helm("upgrade", "--install", *release, "--wait", "--timeout", "5m")

    def uninstall(self) -> None:
        release = [self.release, "--namespace", self.release]
        self.helm("uninstall", *release, "--ignore-not-found", "--wait", "--timeout", "5m")

    def add_namespace(self, name: str) -> None:
        """One that enforces the restricted Pod Security Standard, with the bucket's keys."""
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": RESTRICTED}}
        self.kubectl.apply(namespace)
        metadata = {"name": SECRET, "namespace": name}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": self.s3.secret_data()}
        self.kubectl.apply(secret)

    def run_python(self, namespace: str, image: Object, name: str, program: str, *arguments: str) -> str:
        """What the program prints, run by the image's Python in a restricted pod as a user that no image knows."""
        exact = f"@{image['digest']}" if "digest" in image else f":{image['tag']}"
        container = {
            "name": "python",
            "image": image["repository"] + exact,
            "command": ["python3", "-c", program, *arguments],
            "volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}],
            "securityContext": {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            },
        }
        spec = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": ANY_USER,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [container],
            "volumes": [{"name": "tmp", "emptyDir": {"medium": "Memory"}}],
        }
        metadata = {"name": name, "namespace": namespace}
        self.kubectl.apply({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})

        def ended() -> str | None:
            phase = self.kubectl.get("-n", namespace, "pod", name)["status"].get("phase")
            return phase if phase in ("Succeeded", "Failed") else None

        assert eventually(ended, f"end of pod {name}") == "Succeeded", self.kubectl("-n", namespace, "logs", name)
        return self.kubectl("-n", namespace, "logs", name)


@contextmanager
def own_node(folder: Path) -> Iterator[Site]:
    """Raises CannotRun, ImageError."""
    build()
    cable = Cable(folder)
    with ExitStack() as stack:
        stack.callback(cable.stop)
        cable.start()
        cluster = stack.enter_context(Cluster(folder, address=cable.machine))
        programs = node_tools()
        node = RealNode(cluster, cable, programs, layout_dir())
        stack.callback(node.stop)
        node.start()
        yield Site(
            Kubectl(cluster.tools.kubectl, cluster.kubeconfig),
            Helm(programs.helm, cluster.kubeconfig, folder),
            _by_digest(*node.image("dreambooth-operator")),
            _by_digest(*node.image("dreambooth-job")),
            cluster.s3_server,
            folder,
            node,
        )


@contextmanager
def given_cluster(folder: Path, kubeconfig: Path) -> Iterator[Site]:
    missing = [name for name in ("E2E_OPERATOR_IMAGE", "E2E_JOB_IMAGE", "E2E_ADDRESS") if not os.environ.get(name)]
    assert not missing, f"with KUBECONFIG set, set {', '.join(missing)} too (docs/e2e.md)"
    server = S3Server(tools().versitygw, folder / "s3", os.environ["E2E_ADDRESS"])
    server.start()
    try:
        yield Site(
            Kubectl(tools().kubectl, kubeconfig),
            Helm(node_tools().helm, kubeconfig, folder),
            _from_reference(os.environ["E2E_OPERATOR_IMAGE"]),
            _from_reference(os.environ["E2E_JOB_IMAGE"]),
            server,
            folder,
        )
    finally:
        server.stop()


def _by_digest(repository: str, digest: str) -> Object:
    return {"repository": repository, "digest": digest}


def _from_reference(reference: str) -> Object:
    name, _, digest = reference.partition("@")
    if digest:
        return _by_digest(name, digest)
    repository, _, tag = reference.rpartition(":")
    return {"repository": repository, "tag": tag}


def eventually(ready: Callable[[], Any], what: str, seconds: float = 600, every: float = 0.5) -> Any:
    """The first true answer of `ready`. Raises TimeoutError that names `what`."""
    deadline = time.monotonic() + seconds
    while not (answer := ready()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:.0f} s")
        time.sleep(every)
    return answer
