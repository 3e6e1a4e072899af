"""The chart on a real API server: install, upgrade, uninstall, and who may do what. No node: no pod runs."""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from devcluster.cluster import CRDS, wait_until
from devcluster.controlplane import ControlPlane
from devcluster.kube import ApiError, Kube
from devcluster.toolchain import tools
from dreambooth_api.crd import crd
from dreambooth_api.names import API_VERSION, GROUP, LABEL_JOB, PLURAL
from dreambooth_operator.cluster import connect
from dreambooth_operator.doctor import Finding, Result, examine
from dreambooth_operator.manifests import child_job
from dreambooth_operator.observe import project_training_job
from dreambooth_operator.rights import RIGHTS, Scope
from dreambooth_operator.settings import Settings, from_environment
from tests.chart.conftest import FULLNAME, RELEASE, Chart, HelmError, Object, rex, training_pod
from tests.chart.test_templates import EVERYTHING, STORAGE, operator, plain_env

pytestmark = pytest.mark.integration

CRD_PATH = f"{CRDS}/{PLURAL}.{GROUP}"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
WITHOUT_CRD = {"crds": {"enabled": False}}

Release = Callable[..., str]


@pytest.fixture
def release(installed: Chart, namespace: str) -> Iterator[Release]:
    """Installs with these values, without the CRD, until the test ends. Returns the namespace."""
    names: list[str] = []

    def install(**values: Any) -> str:
        installed.install(RELEASE, namespace, **WITHOUT_CRD, **values)
        names.append(RELEASE)
        return namespace

    yield install
    for name in names:
        installed.uninstall(name, namespace)


def training_jobs(namespace: str, name: str = "") -> str:
    return f"/apis/{API_VERSION}/namespaces/{namespace}/{PLURAL}" + (f"/{name}" if name else "")


def jobs(namespace: str, name: str = "") -> str:
    return f"/apis/batch/v1/namespaces/{namespace}/jobs" + (f"/{name}" if name else "")


def established(api: Kube) -> bool:
    found = api.find(CRD_PATH) or {}
    return any(
        one["type"] == "Established" and one["status"] == "True"
        for one in found.get("status", {}).get("conditions") or ()
    )


def kubectl(control_plane: ControlPlane, objects: list[Object], *words: str) -> None:
    """Fails with the API server's words when refused."""
    text = yaml.safe_dump_all(objects)
    command = [str(tools().kubectl), f"--kubeconfig={control_plane.kubeconfig}", *words, "--filename=-"]
    done = subprocess.run(command, input=text, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr


def hooks(chart: Chart, namespace: str) -> list[Object]:
    text = chart.helm("get", "hooks", RELEASE, "--namespace", namespace)
    return [one for one in yaml.safe_load_all(text) if one]


def may(api: Kube, user: str, verb: str, group: str, resource: str, namespace: str = "", name: str = "") -> bool:
    plural, _, subresource = resource.partition("/")
    attributes = {"group": group, "resource": plural, "subresource": subresource, "verb": verb, "namespace": namespace,
                  "name": name}  # fmt: skip
    review = api.create(
        "/apis/authorization.k8s.io/v1/subjectaccessreviews",
        {"spec": {"user": user, "groups": ["system:authenticated"], "resourceAttributes": attributes}},
    )
    return bool(review["status"].get("allowed"))


# What the API server takes


def test_every_object_passes_strict_validation(chart: Chart, control_plane: ControlPlane, namespace: str) -> None:
    values = EVERYTHING | {
        "watchNamespaces": [namespace],
        "doctor": {"bucketUri": "s3://results/", "namespace": namespace},
    }
    left_out = ("ServiceMonitor", "Pod")  # its CRD is not ours; takes an account, see below
    objects = [one for one in chart.render(**values) if one["kind"] not in left_out]
    for one in objects:
        if "namespace" in one["metadata"]:
            one["metadata"]["namespace"] = namespace
    kubectl(control_plane, objects, "create", "--dry-run=server", "--validate=strict")


def test_operators_start_in_a_restricted_namespace(release: Release, api: Kube) -> None:
    namespace = release()
    wait_until(lambda: len(api.get(f"/api/v1/namespaces/{namespace}/pods")["items"]) == 2, "two pods of the operator")


def test_doctors_start_in_a_restricted_namespace(
    release: Release, installed: Chart, control_plane: ControlPlane
) -> None:
    namespace = release(storage=STORAGE, doctor={"bucketUri": "s3://results/"})
    pods = [one for one in hooks(installed, namespace) if one["kind"] == "Pod"]
    assert len(pods) == 2
    accounts = [one for one in hooks(installed, namespace) if one["kind"] == "ServiceAccount"]
    kubectl(control_plane, accounts, "create")
    kubectl(control_plane, pods, "create", "--dry-run=server", "--validate=strict")


# Rights


def operator_user(namespace: str) -> str:
    return f"system:serviceaccount:{namespace}:{FULLNAME}"


def test_in_namespaced_mode_the_operator_has_its_rights_there_and_nowhere_else(release: Release, api: Kube) -> None:
    served = "default"
    namespace = release(watchNamespaces=[served])
    user = operator_user(namespace)
    places = {Scope.SERVED: served, Scope.OWN: namespace, Scope.LEASE: namespace, Scope.CLUSTER: ""}
    for right in RIGHTS:
        asked, name = (right.verb, right.group, right.resource), FULLNAME if right.scope is Scope.LEASE else ""
        assert may(api, user, *asked, places[right.scope], name), right
        if right.scope is not Scope.CLUSTER:
            assert not may(api, user, *asked, "", name), right
            assert not may(api, user, *asked, "kube-system", name), right
        if name:
            assert not may(api, user, *asked, namespace, "another"), right


def test_in_cluster_mode_the_operator_serves_every_namespace_but_reads_no_secret(release: Release, api: Kube) -> None:
    namespace = release()
    user = operator_user(namespace)
    assert all(may(api, user, r.verb, r.group, r.resource) for r in RIGHTS if r.scope is Scope.SERVED)
    assert not may(api, user, "list", "coordination.k8s.io", "leases", "kube-system")
    assert not any(may(api, user, verb, "", "secrets", namespace) for verb in ("get", "list", "watch"))
    assert not may(api, user, "create", "", "pods", namespace)
    assert not may(api, user, "create", "", "pods/exec", namespace)


def test_the_doctor_finds_all_rights_with_no_more_than_its_own(
    release: Release, installed: Chart, control_plane: ControlPlane, api: Kube, tmp_path: Path
) -> None:
    namespace = release(watchNamespaces=["default"])
    kubectl(control_plane, [one for one in hooks(installed, namespace) if one["kind"] != "Pod"], "create")
    settings = from_environment(plain_env(operator(manifest(installed, namespace))))
    findings = doctor(control_plane, namespace, settings, tmp_path)
    assert findings["rights"].result is Result.OK, findings["rights"]
    assert findings["secrets"].result is Result.OK
    assert findings["crd"].words.startswith(f"{PLURAL}.{GROUP} is not installed")
    assert findings["gpu"].result is Result.WARNING
    assert "nobody renews" in findings["lease"].words
    api.delete(f"{RBAC}/clusterrolebindings/{FULLNAME}.{namespace}")
    findings = doctor(control_plane, namespace, settings, tmp_path)
    assert "create tokenreviews" in findings["rights"].words


def manifest(chart: Chart, namespace: str) -> list[Object]:
    return [one for one in yaml.safe_load_all(chart.helm("get", "manifest", RELEASE, "--namespace", namespace)) if one]


def doctor(control_plane: ControlPlane, namespace: str, settings: Settings, folder: Path) -> dict[str, Finding]:
    """As in its pod: with a token of its ServiceAccount."""
    account = f"/api/v1/namespaces/{namespace}/serviceaccounts/{FULLNAME}-doctor"
    answer = control_plane.admin.create(f"{account}/token", {"spec": {}})
    config = json.loads(control_plane.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": answer["status"]["token"]}
    file = folder / "kubeconfig"
    file.write_text(json.dumps(config))
    cluster = connect(1, kubeconfig=str(file))
    return {one.check: one for one in examine(cluster, settings, (namespace, FULLNAME), lambda _: None)}


def test_people_with_the_usual_roles_write_or_read_training_jobs(release: Release, api: Kube) -> None:
    namespace = release()
    for role in ("admin", "edit", "view"):
        binding = {
            "metadata": {"name": role},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": f"{role}-user"}],
        }
        api.create(f"{RBAC}/namespaces/{namespace}/rolebindings", binding)
        verbs = ["get", "list", "watch"] + (["create", "update", "patch", "delete"] if role != "view" else [])
        wait_until(
            lambda role=role, verbs=verbs: all(may(api, f"{role}-user", v, GROUP, PLURAL, namespace) for v in verbs),
            f"role {role} gets the rights on TrainingJobs",
        )
    assert not may(api, "view-user", "create", GROUP, PLURAL, namespace)
    for role in ("admin", "edit", "view"):  # status is the operator's word
        assert not may(api, f"{role}-user", "patch", GROUP, f"{PLURAL}/status", namespace)
        assert may(api, f"{role}-user", "get", GROUP, f"{PLURAL}/status", namespace)


# Admission


def pod(labels: dict[str, str], container: Object, **spec: Any) -> Object:
    """Without any of what a container engine would look at: the policy alone decides."""
    return {
        "metadata": {"name": "probe", "labels": labels},
        "spec": {"containers": [{"name": "trainer", "image": "none", **container}], **spec},
    }


OURS = {LABEL_JOB: "rex"}
HOST_PATH = {"volumes": [{"name": "host", "hostPath": {"path": "/"}}]}
PRIVILEGED = {"securityContext": {"privileged": True}}
FORBIDDEN = {
    "host path": (pod(OURS, {}, **HOST_PATH), "no hostPath volume"),
    "host network": (pod(OURS, {}, hostNetwork=True), "no hostNetwork"),
    "host processes": (pod(OURS, {}, hostPID=True), "no hostNetwork"),
    "privileged": (pod(OURS, PRIVILEGED), "no privileged container"),
    "privileged at the start": (
        pod(OURS, {}, initContainers=[{"name": "first", "image": "none", **PRIVILEGED}]),
        "no privileged container",
    ),
}


def test_the_admission_policy_guards_training_pods_and_nobody_elses(release: Release, api: Kube) -> None:
    release(admissionPolicy={"enabled": True}, watchNamespaces=["default"])
    pods = "/api/v1/namespaces/default/pods"  # a namespace without a Pod Security Standard

    def refusal(body: Object) -> str:
        try:
            api.create(pods, body, dryRun="All")
        except ApiError as error:
            return str(error)
        return ""

    first, words = FORBIDDEN["host path"]
    wait_until(lambda: words in refusal(first), "the policy is in force")
    found = {name: refusal(body) for name, (body, _) in FORBIDDEN.items()}
    assert all(words in found[name] for name, (_, words) in FORBIDDEN.items()), found
    assert refusal(training_pod("default")) == ""
    assert refusal(pod({}, PRIVILEGED, **HOST_PATH, hostNetwork=True)) == ""


# The life of a release


@pytest.fixture
def previous(chart: Chart, tmp_path: Path) -> Path:
    """The chart of an older version, packaged, whose CRD lacks a column and a field of status."""
    folder = tmp_path / "previous"
    shutil.copytree(chart.folder, folder)
    about = folder / "Chart.yaml"
    about.write_text(about.read_text().replace("ersion: 0.1.0", "ersion: 0.0.9"))
    older = crd()
    version = older["spec"]["versions"][0]
    version["additionalPrinterColumns"] = [c for c in version["additionalPrinterColumns"] if c["name"] != "Loss"]
    del version["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]["display"]
    (folder / "files/crds/trainingjobs.yaml").write_text(yaml.safe_dump(older, sort_keys=False))
    chart.helm("package", folder, "--destination", tmp_path)
    return tmp_path / "dreambooth-operator-0.0.9.tgz"


@pytest.fixture
def no_crd_afterwards(api: Kube) -> Iterator[None]:
    yield
    api.delete(CRD_PATH)
    wait_until(lambda: api.find(CRD_PATH) is None, "CRD is deleted")


@pytest.mark.usefixtures("no_crd_afterwards")
def test_upgrade_and_uninstall_leave_training_jobs_and_their_jobs_alone(
    installed: Chart, previous: Path, api: Kube, namespace: str
) -> None:
    replace(installed, folder=previous).install(RELEASE, namespace)
    wait_until(lambda: established(api), "CRD is served")
    work = f"work-{secrets.token_hex(4)}"
    api.create("/api/v1/namespaces", {"metadata": {"name": work}})
    job = api.create(training_jobs(work), rex())
    child = api.create(jobs(work), child_job(project_training_job(job), 0, Settings()))

    def untouched() -> bool:
        parent, run = api.get(training_jobs(work, "rex")), api.get(jobs(work, child["metadata"]["name"]))
        same = [one["metadata"]["uid"] for one in (parent, run)] == [one["metadata"]["uid"] for one in (job, child)]
        return same and not any("deletionTimestamp" in one["metadata"] for one in (parent, run))

    def columns() -> list[str]:
        return [one["name"] for one in api.get(CRD_PATH)["spec"]["versions"][0]["additionalPrinterColumns"]]

    installed.upgrade(RELEASE, namespace)
    served = api.get(CRD_PATH)["spec"]["versions"][0]
    assert "Loss" in columns()
    assert "display" in served["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
    assert untouched()

    installed.helm("rollback", RELEASE, "--namespace", namespace)
    assert "Loss" not in columns()
    installed.upgrade(RELEASE, namespace)
    assert "Loss" in columns()
    assert untouched()

    installed.uninstall(RELEASE, namespace)
    assert api.find(f"/apis/apps/v1/namespaces/{namespace}/deployments/{FULLNAME}") is None
    assert established(api)
    assert untouched()

    installed.install(RELEASE, namespace)  # takes the kept CRD up again
    assert untouched()
    installed.uninstall(RELEASE, namespace)
    with pytest.raises(HelmError, match="ownership"):
        installed.install("other", namespace)
    installed.helm("install", "other", installed.folder, "--namespace", namespace, "--take-ownership")
    assert untouched()
    installed.uninstall("other", namespace)

    api.delete(training_jobs(work, "rex"))  # with no operator there, nothing holds it
    wait_until(lambda: api.find(training_jobs(work, "rex")) is None, "TrainingJob is deleted")
    api.delete(f"/api/v1/namespaces/{work}")


def test_a_crd_that_is_not_to_be_kept_goes_with_the_release(installed: Chart, api: Kube, namespace: str) -> None:
    installed.install(RELEASE, namespace, crds={"keep": False})
    wait_until(lambda: established(api), "CRD is served")
    api.create(training_jobs(namespace), rex())
    installed.uninstall(RELEASE, namespace)
    wait_until(lambda: api.find(CRD_PATH) is None, "CRD is deleted")


def test_two_releases_live_side_by_side(release: Release, installed: Chart, namespace: str, api: Kube) -> None:
    release(watchNamespaces=["default"])
    other = f"other-{secrets.token_hex(4)}"
    api.create("/api/v1/namespaces", {"metadata": {"name": other}})
    installed.install(RELEASE, other, watchNamespaces=["kube-public"], **WITHOUT_CRD)
    assert not may(api, operator_user(other), "list", "batch", "jobs", "default")
    assert may(api, operator_user(namespace), "list", "batch", "jobs", "default")
    installed.uninstall(RELEASE, other)
    assert may(api, operator_user(namespace), "list", "batch", "jobs", "default")
    api.delete(f"/api/v1/namespaces/{other}")


def test_a_namespace_that_is_missing_is_named(installed: Chart, namespace: str) -> None:
    with pytest.raises(HelmError, match='namespaces "nowhere" not found'):
        installed.install(RELEASE, namespace, watchNamespaces=["nowhere"], **WITHOUT_CRD)
    installed.uninstall(RELEASE, namespace)


def test_notes_warn_when_no_node_has_a_gpu(installed: Chart, api: Kube, namespace: str) -> None:
    def notes() -> str:
        words = ["upgrade", "--install", RELEASE, str(installed.folder), "--namespace", namespace]
        said = installed.helm(*words, "--dry-run=server", "--output=json", values={})
        return str(json.loads(said)["info"]["notes"])

    api.create("/api/v1/nodes", {"metadata": {"name": "plain"}})
    assert "none of 1 nodes offers nvidia.com/gpu" in notes()
    patch = {"status": {"allocatable": {"nvidia.com/gpu": "1"}, "capacity": {"nvidia.com/gpu": "1"}}}
    api.patch("/api/v1/nodes/plain/status", patch)
    assert "nvidia.com/gpu" not in notes()
    api.delete("/api/v1/nodes/plain")


def test_notes_warn_when_the_api_servers_port_is_shut(installed: Chart, api: Kube, namespace: str) -> None:
    path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
    slice_ = {
        "metadata": {"name": "kubernetes", "labels": {"kubernetes.io/service-name": "kubernetes"}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.1.2.3"]}],
        "ports": [{"name": "https", "port": 16443}],
    }
    api.create(path, slice_)
    words = ["install", RELEASE, str(installed.folder), "--namespace", namespace, "--dry-run=server", "--output=json"]
    assert "networkPolicy.apiServer.ports={16443}" in installed.helm(*words, values={})
    given = {"networkPolicy": {"apiServer": {"ports": [443, 16443]}}}
    assert "apiServer.ports" not in json.loads(installed.helm(*words, values=given))["info"]["notes"]
    api.delete(f"{path}/kubernetes")
