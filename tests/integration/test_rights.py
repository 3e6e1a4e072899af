"""Every right of the operator is needed, and there is no other: a story is told with all of them, and at the same time
once more for each, without it, in a namespace of its own.

The API server enforces what OpenShift's does: who owns an object and blocks its owner's deletion must be allowed to
set the owner's finalizers.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from devcluster.cluster import CRDS, Cluster, scratch_folder
from devcluster.controlplane import ControlPlane
from devcluster.kube import ApiError
from devcluster.toolchain import cache_dir
from dreambooth_api.crd import crd
from dreambooth_operator.election import Election, Terms
from dreambooth_operator.rights import RIGHTS, Right, Scope, rules
from tests.integration.operator_kit import ROOT, SPEC, Json, Kit, eventually

RBAC = "/apis/rbac.authorization.k8s.io/v1"
STORY_SECONDS = 120
LEASE = "operator"
FINALIZERS = next(right for right in RIGHTS if right.resource.endswith("/finalizers"))


class StrictControlPlane(ControlPlane):
    def _api_flags(self, *ports: int) -> list[str]:
        flags, plugins = super()._api_flags(*ports), "--enable-admission-plugins=NodeRestriction"
        flags[flags.index(plugins)] += ",OwnerReferencesPermissionEnforcement"
        return flags


@pytest.fixture(scope="module")
def strict() -> Iterator[Cluster]:
    with scratch_folder(cache_dir() / "test-clusters") as folder:
        cluster = Cluster(folder)
        cluster.control_plane = StrictControlPlane(cluster.tools, cluster.folder)
        with cluster:
            cluster.install_crd(crd())
            cluster.add_node()
            yield cluster


def grant(cluster: Cluster, subject: Json, name: str, namespace: str, rights: list[Right]) -> None:
    """A Role in `namespace`, and a ClusterRole for what has no namespace; returns when the API server goes by them."""
    inside = [right for right in rights if right.scope is not Scope.CLUSTER]
    outside = [right for right in rights if right.scope is Scope.CLUSTER]
    for prefix, kind, granted in ((f"/namespaces/{namespace}", "", inside), ("", "Cluster", outside)):
        plural = f"{kind.lower()}role"
        reference = {"apiGroup": "rbac.authorization.k8s.io", "kind": f"{kind}Role", "name": name}
        cluster.kube.create(f"{RBAC}{prefix}/{plural}s", {"metadata": {"name": name}, "rules": rules(granted, LEASE)})
        binding = {"metadata": {"name": name}, "roleRef": reference, "subjects": [subject]}
        cluster.kube.create(f"{RBAC}{prefix}/{plural}bindings", binding)
    user = f"system:serviceaccount:{namespace}:{subject['name']}" if "namespace" in subject else subject["name"]
    for right in rights:
        eventually(f"{user} may {right}", lambda right=right: _allowed(cluster, user, right, namespace))


def _allowed(cluster: Cluster, user: str, right: Right, namespace: str) -> bool:
    resource, _, subresource = right.resource.partition("/")
    attributes = {
        "group": right.group, "resource": resource, "subresource": subresource, "verb": right.verb,
        "namespace": "" if right.scope is Scope.CLUSTER else namespace,
        "name": LEASE if right.scope is Scope.LEASE else "",
    }  # fmt: skip
    review = {"spec": {"user": user, "resourceAttributes": attributes}}
    path = "/apis/authorization.k8s.io/v1/subjectaccessreviews"
    return bool(cluster.kube.create(path, review)["status"]["allowed"])


class Telling:
    """The story with one right missing, or none: one job ends well and its lifetime runs out, one meets its deadline.

    Election, creation, progress, events, status, the live reads, the deletion of a Job and that of a TrainingJob are
    all in it.
    """

    def __init__(self, cluster: Cluster, number: int, missing: Right | None, folder: Path) -> None:
        self.missing, self.namespace = missing, f"rights-{number}"
        self.refused: set[tuple[str, str]] = set()  # (verb, resource) of what was answered with 403
        cluster.add_namespace(self.namespace)
        self.kit = Kit(cluster, self.namespace, folder)
        self.kit.observe = self._observe
        self.kit.kubeconfig = folder / f"{self.namespace}.kubeconfig"
        cluster.control_plane.access(self.namespace).write_kubeconfig(self.kit.kubeconfig)
        user = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": self.namespace}
        grant(cluster, user, self.namespace, self.namespace, [right for right in RIGHTS if right is not missing])

    def __str__(self) -> str:
        return f"without {self.missing}" if self.missing else "with all rights"

    def start(self) -> None:
        renewal_fails = self.missing is not None and self.missing.resource == "leases" and self.missing.verb == "update"
        terms = Terms(3 if renewal_fails else 120)  # on a busy machine nobody else is to lose it
        self.kit.start(Election(self.kit.connect(), (self.namespace, LEASE), "one", "", terms), workers=1)

    def tell(self) -> None:
        self.kit.end_with(0, "done")
        self.kit.apply("done", policy={"ttlSecondsAfterFinished": 1})
        self.kit.apply("late", policy={"activeDeadlineSeconds": 8})

    def came_to_its_end(self) -> bool:
        late, operator = self.kit.status("late"), self.kit.operator
        told = {("done", "Started"), ("done", "Completed"), ("late", "Started"), ("late", "DeadlineExceeded")}
        return (
            operator is not None
            and not operator.lost
            and self.kit.get("done") is None
            and late.get("state") == "Failed: DeadlineExceeded"
            and late.get("progress") is not None
            and "late-r0" not in self.kit.jobs()
            and {(job, reason) for job, reason, _ in self.kit.events_with_job()} == told
        )

    def was_refused_that(self) -> bool:
        """The API server refused what the missing right is for, and nothing else."""
        assert self.missing is not None
        denied = {("create", "jobs")} if self.missing is FINALIZERS else {_call(self.missing)}
        assert self.refused <= denied, f"{self}: {self.refused}"
        return self.refused == denied

    def _observe(self, verb: str, resource: str, code: str) -> None:
        if code == "403":
            self.refused.add((verb, resource))


def _call(right: Right) -> tuple[str, str]:
    return right.verb, right.resource.partition("/")[0]


@pytest.fixture
def tellings(strict: Cluster, tmp_path: Path) -> Iterator[list[Telling]]:
    tellings = [Telling(strict, number, right, tmp_path) for number, right in enumerate([None, *RIGHTS])]
    yield tellings
    for telling in tellings:
        telling.kit.stop()


def test_each_right_is_needed_and_no_other_is(tellings: list[Telling]) -> None:
    for telling in tellings:
        telling.start()
    for telling in tellings:
        telling.tell()
    whole, *others = tellings
    eventually(f"{whole}: it comes to its end", whole.came_to_its_end, STORY_SECONDS, 0.5)
    assert whole.refused == set()
    for telling in others:
        eventually(f"{telling}: it is refused", telling.was_refused_that, STORY_SECONDS, 0.5)
    assert [str(telling) for telling in others if telling.came_to_its_end()] == []
    without_finalizers = next(telling for telling in others if telling.missing is FINALIZERS)
    assert "blockOwnerDeletion" in without_finalizers.kit.status("late")["message"]


# The doctor, with its own rights and no other.

DOCTORS_RIGHTS = [
    Right("apiextensions.k8s.io", "customresourcedefinitions", "get", "", Scope.CLUSTER),
    Right("", "nodes", "list", "", Scope.CLUSTER),
    Right("authorization.k8s.io", "subjectaccessreviews", "create", "", Scope.CLUSTER),
    Right("coordination.k8s.io", "leases", "get", "", Scope.LEASE),
]


class Clinic:
    def __init__(self, cluster: Cluster, namespace: str, folder: Path) -> None:
        self.cluster, self.namespace = cluster, namespace
        self.kubeconfig = folder / "doctor.kubeconfig"
        cluster.add_namespace(namespace)
        cluster.control_plane.access(f"doctor-{namespace}").write_kubeconfig(self.kubeconfig)
        user = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": f"doctor-{namespace}"}
        grant(cluster, user, f"doctor-{namespace}", namespace, DOCTORS_RIGHTS)

    def admit(self, rights: list[Right]) -> None:
        account = {"kind": "ServiceAccount", "name": "operator", "namespace": self.namespace}
        grant(self.cluster, account, f"operator-{self.namespace}", self.namespace, rights)

    def examine(self, **env: str) -> tuple[int, list[str]]:
        """Exit code and lines of `dreambooth-operator doctor`."""
        settings = {
            "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("api", "operator")),
            "KUBECONFIG": str(self.kubeconfig),
            "DREAMBOOTH_NAMESPACES": self.namespace,
            "DREAMBOOTH_OPERATOR_ACCOUNT": f"{self.namespace}:operator",
        }
        command = [sys.executable, "-m", "dreambooth_operator", "doctor"]
        ended = subprocess.run(command, env=os.environ | settings | env, capture_output=True, text=True, check=False)
        return ended.returncode, [" ".join(line.split()) for line in (ended.stdout + ended.stderr).splitlines()]


def test_the_doctor_finds_a_sound_operator_sound(strict: Cluster, tmp_path: Path) -> None:
    clinic = Clinic(strict, "sound", tmp_path)
    clinic.admit(list(RIGHTS))
    kit, stop = Kit(strict, "sound", tmp_path), threading.Event()
    election = Election(kit.connect(), ("sound", LEASE), "pod-1", "", Terms(6))
    candidate = threading.Thread(target=election.run, args=(stop, lambda: None, lambda: None))
    candidate.start()
    try:
        code, lines = clinic.examine(DREAMBOOTH_LEASE=f"sound/{LEASE}", DREAMBOOTH_LEASE_SECONDS="6")
    finally:
        stop.set()
        candidate.join()
    assert lines == [
        "ok crd trainingjobs.dreambooth.dev is served as v1alpha1 with this operator's schema",
        f"ok rights the operator has the {len(RIGHTS)} rights it needs",
        "ok secrets the operator may not read Secrets",
        "warning gpu none of 1 nodes offers nvidia.com/gpu: TrainingJobs wait until one does (is its device plugin "
        "running?), unless they set runtime.gpu to another or to none",
        f"ok lease sound/{LEASE} is held by pod-1",
    ]
    assert code == 0


def test_the_doctor_names_what_is_wrong(strict: Cluster, tmp_path: Path) -> None:
    clinic = Clinic(strict, "ill", tmp_path)
    missing = next(right for right in RIGHTS if (right.resource, right.verb) == ("jobs", "delete"))
    secrets = Right("", "secrets", "get", "")
    clinic.admit([secrets, *(right for right in RIGHTS if right is not missing)])
    _change_schema(strict, True)
    try:
        code, lines = clinic.examine()
    finally:
        _change_schema(strict, False)
    assert code == 1
    field = "properties.spec.properties.runPolicy.properties.suspend.description"
    assert lines[0] == (
        "FAILED crd trainingjobs.dreambooth.dev has another schema than this operator, "
        f"first at {field}; apply the CRD that came with this operator"
    )
    assert lines[1].startswith("FAILED rights the operator may not delete jobs.batch in namespace ill; needed: To stop")
    assert lines[2].startswith("warning secrets")
    assert lines[-1].startswith("ok lease none")


def _change_schema(cluster: Cluster, changed: bool) -> None:
    body: Any = crd()
    schema = body["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    if changed:
        schema["properties"]["spec"]["properties"]["runPolicy"]["properties"]["suspend"]["description"] = "Old words."
    path = f"{CRDS}/{body['metadata']['name']}"
    cluster.kube.patch(path, body)


# What an author may apply.


def test_the_policy_of_the_threat_model_page(strict: Cluster, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "threat-model.md").read_text()
    documents = list(yaml.safe_load_all(page.split("```yaml\n")[1].split("```")[0]))
    strict.add_namespace("authors")
    kit = Kit(strict, "authors", tmp_path)
    runtime, storage = SPEC["runtime"], {"credentialsSecretRef": {"name": "somebody-elses"}}
    refused: dict[str, Json] = {
        "runtime.image": {"runtime": runtime | {"image": "registry.example.org/team/dreambooth-job:latest"}},
        "runtime.serviceAccountName": {"runtime": runtime | {"serviceAccountName": "admin"}},
        "storage.credentialsSecretRef": {"storage": storage},
        "storage.endpoint": {"storage": {"endpoint": "https://elsewhere.example"}},
    }
    ours = {"image": f"registry.example.org/team/dreambooth-job@sha256:{64 * 'a'}"}

    def refusal(spec: Json) -> str:
        try:
            kit.apply("tried", **spec)
        except ApiError as error:
            return str(error)
        kit.delete("tried")
        return ""

    assert [refusal(spec) for spec in refused.values()] == [""] * len(refused)
    for plural, body in zip(
        ("validatingadmissionpolicies", "validatingadmissionpolicybindings"), documents, strict=True
    ):
        strict.kube.create(f"/apis/admissionregistration.k8s.io/v1/{plural}", body)
    for field, spec in refused.items():
        eventually(f"{field} is refused", lambda spec=spec, field=field: f"denied request: {field}" in refusal(spec))
    own = {"credentialsSecretRef": {"name": "bucket-keys"}}
    assert refusal({"runtime": runtime | ours, "storage": own}) == ""
    assert refusal({}) == ""
