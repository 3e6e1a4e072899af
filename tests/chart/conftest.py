"""The chart as helm renders it, and as a real API server takes it.

def test_something(chart): objects = chart.render(replicas=3)
def test_something_else(chart, api, namespace): chart.install("rel", namespace)
"""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from devcluster.cluster import scratch_folder, wait_until
from devcluster.controlplane import ControlPlane
from devcluster.kube import Kube
from devcluster.toolchain import cache_dir, helm, tools
from dreambooth_api.names import API_VERSION, KIND
from dreambooth_operator.manifests import child_job
from dreambooth_operator.observe import project_training_job
from dreambooth_operator.settings import Settings
from tests.wrong_manifests import good_spec

CHART = Path(__file__).parents[2] / "helm/dreambooth-operator"
RELEASE, NAMESPACE = "rel", "dream"
FULLNAME = "rel-dreambooth-operator"

Object = dict[str, Any]


class HelmError(Exception):
    """helm refused; the message is its own."""


@dataclass(frozen=True)
class Chart:
    home: Path  # helm's caches and settings, so that nobody's own are read
    folder: Path = CHART
    kubeconfig: Path | None = None

    def render(self, **values: Any) -> list[Object]:
        """Every object, hooks too. Values are those of values.yaml, nested as there."""
        text = self.helm("template", RELEASE, self.folder, "--namespace", NAMESPACE, values=values)
        return [document for document in yaml.safe_load_all(text) if document]

    def notes(self, **values: Any) -> str:
        said = self.helm(
            "install",
            RELEASE,
            self.folder,
            "--namespace",
            NAMESPACE,
            "--dry-run=client",
            "--output=json",
            values=values,
        )
        return str(json.loads(said)["info"]["notes"])

    def install(self, name: str, namespace: str, **values: Any) -> None:
        self.helm("install", name, self.folder, "--namespace", namespace, values=values)

    def upgrade(self, name: str, namespace: str, **values: Any) -> None:
        self.helm("upgrade", name, self.folder, "--namespace", namespace, values=values)

    def uninstall(self, name: str, namespace: str) -> None:
        self.helm("uninstall", name, "--namespace", namespace, "--wait", "--timeout=60s")

    def helm(self, *words: str | Path, values: Object | None = None) -> str:
        """helm's output. Raises HelmError."""
        env = {
            "PATH": os.defpath,
            "HOME": str(self.home),
            "KUBECONFIG": str(self.kubeconfig or self.home / "no-cluster"),
        }
        with tempfile.NamedTemporaryFile("w", suffix=".json", dir=self.home) as file:
            command = [helm(), *words]
            if values is not None:
                json.dump(values, file)
                file.flush()
                command += ["--values", file.name]
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
        if done.returncode:
            raise HelmError(done.stderr.strip())
        return done.stdout


def find(objects: list[Object], kind: str, name: str = "", namespace: str = "") -> Object:
    """The only object of that kind, and name and namespace where given."""
    found = [
        one for one in objects
        if one["kind"] == kind
        and name in ("", one["metadata"]["name"])
        and namespace in ("", one["metadata"].get("namespace"))
    ]  # fmt: skip
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def is_hook(one: Object) -> bool:
    return "helm.sh/hook" in one["metadata"].get("annotations", {})


def rex() -> Object:
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": "rex"}, "spec": good_spec()}


def training_pod(namespace: str) -> Object:
    """As the Job controller makes it from the operator's Job."""
    stored = {"namespace": namespace, "uid": "0", "resourceVersion": "1", "creationTimestamp": "2026-01-01T00:00:00Z"}
    job = child_job(project_training_job(rex() | {"metadata": {"name": "rex"} | stored}), 0, Settings())
    template: Object = job["spec"]["template"]
    return template | {"metadata": template["metadata"] | {"name": "probe"}}


@pytest.fixture(scope="session")
def chart(tmp_path_factory: pytest.TempPathFactory) -> Chart:
    return Chart(tmp_path_factory.mktemp("helm"))


class Permissive(ControlPlane):
    """Allows privileged containers, as most clusters do, so that what forbids them here is the chart."""

    def _api_flags(self, etcd_port: int, api_port: int) -> list[str]:
        return [*super()._api_flags(etcd_port, api_port), "--allow-privileged=true"]


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """No node, and no CRD: it comes with the chart."""
    with scratch_folder(cache_dir() / "test-clusters") as folder:
        control_plane = Permissive(tools(), folder)
        try:
            control_plane.start()
            yield control_plane
        finally:
            control_plane.stop()


@pytest.fixture
def api(control_plane: ControlPlane) -> Kube:
    return control_plane.admin


@pytest.fixture
def installed(chart: Chart, control_plane: ControlPlane) -> Chart:
    """The chart with a cluster to install into."""
    return replace(chart, kubeconfig=control_plane.kubeconfig)


@pytest.fixture
def namespace(api: Kube) -> Iterator[str]:
    """A fresh namespace that enforces the restricted Pod Security Standard."""
    name = f"test-{secrets.token_hex(4)}"
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    api.create("/api/v1/namespaces", {"metadata": {"name": name, "labels": labels}})
    account = f"/api/v1/namespaces/{name}/serviceaccounts/default"
    wait_until(lambda: api.find(account) is not None, f"ServiceAccount of namespace {name}")
    yield name
    api.delete(f"/api/v1/namespaces/{name}")
