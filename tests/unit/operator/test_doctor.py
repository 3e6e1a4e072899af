"""What the doctor says about clusters that are not as they should be; the integration tests show it a real one."""

from __future__ import annotations

from typing import Any

import pytest

from dreambooth_api.crd import crd
from dreambooth_operator.cluster import ACCESS_REVIEWS, CRDS, Json, Listing, NotFound, Rejected, Resource
from dreambooth_operator.doctor import Finding, difference, examine
from dreambooth_operator.rights import RIGHTS, Scope
from dreambooth_operator.settings import Settings

SETTINGS = Settings(lease=("ops", "operator"))


class Ward:
    """A cluster in which everything is right, until a test changes something."""

    def __init__(self) -> None:
        self.crd: Json | None = crd()
        self.forbidden: set[tuple[str, str]] = {("get", "secrets")}
        self.nodes: list[Json] = [{"status": {"allocatable": {"nvidia.com/gpu": "8"}}}, {"status": {}}]
        self.holder, self.renewals, self.alive = "pod-1_0a1b2c3d", 0, True
        self.asked: list[Json] = []

    def get(self, resource: Resource, namespace: str | None, name: str) -> Json:
        if resource is CRDS:
            if self.crd is None:
                raise NotFound("get customresourcedefinitions: 404")
            return self.crd
        self.renewals += self.alive
        return {"spec": {"holderIdentity": self.holder, "renewTime": str(self.renewals)}}

    def list(self, resource: Resource, namespace: str | None, selector: str) -> Listing:
        return Listing(self.nodes, "1")

    def create(self, resource: Resource, namespace: str | None, body: Json) -> Json:
        assert resource is ACCESS_REVIEWS
        self.asked.append(body["spec"])
        asked = body["spec"]["resourceAttributes"]
        return {"status": {"allowed": (asked["verb"], asked["resource"]) not in self.forbidden}}

    def findings(self, settings: Settings = SETTINGS) -> dict[str, Finding]:
        cluster: Any = self
        return {finding.check: finding for finding in examine(cluster, settings, ("ops", "operator"), lambda _: None)}

    def results(self, settings: Settings = SETTINGS) -> dict[str, str]:
        return {name: str(finding.result) for name, finding in self.findings(settings).items()}


SOUND = dict.fromkeys(("crd", "rights", "secrets", "gpu", "lease"), "ok")


@pytest.fixture
def ward() -> Ward:
    return Ward()


def test_a_sound_cluster_passes_every_check(ward: Ward) -> None:
    assert ward.results() == SOUND
    assert {spec["user"] for spec in ward.asked} == {"system:serviceaccount:ops:operator"}


def test_a_crd_that_is_missing_or_not_served_fails(ward: Ward) -> None:
    body: Any = crd()
    body["spec"]["versions"][0]["served"] = False
    for found in (None, body):
        ward.crd = found
        assert ward.results() == SOUND | {"crd": "FAILED"}


def test_the_first_difference_of_two_schemas_is_named() -> None:
    assert difference({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 2}}) == ""
    assert difference({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}) == "a.c"
    assert difference({"a": {"b": 1}}, {"a": {}}) == "a.b"
    assert difference({"a": [1]}, {"a": [2]}) == "a"


def test_a_missing_right_is_named_with_its_reason(ward: Ward) -> None:
    ward.forbidden.add(("watch", "pods"))
    words = ward.findings()["rights"].words
    assert words == "the operator may not watch pods in the whole cluster; needed: To hear of their changes."
    ward.forbidden = {("update", "leases")}
    assert "may not update leases.coordination.k8s.io on ops/operator;" in ward.findings()["rights"].words


def test_every_served_namespace_is_asked_about_and_the_lease_in_its_own(ward: Ward) -> None:
    ward.findings(Settings(namespaces=("a", "b"), lease=("ops", "operator")))
    asked = [spec["resourceAttributes"] for spec in ward.asked]
    assert {attributes["namespace"] for attributes in asked} == {"a", "b", "ops", ""}
    calls = {(attributes["verb"], attributes["namespace"], attributes["name"]) for attributes in asked}
    assert {call for call in calls if call[2]} == {
        ("get", "ops", "operator"),
        ("update", "ops", "operator"),
    }
    served = sum(right.scope is Scope.SERVED for right in RIGHTS)
    assert len(ward.asked) == 2 * served + (len(RIGHTS) - served) + 2  # and the Secrets


def test_a_cluster_without_gpus_and_an_operator_that_reads_secrets_are_warnings(ward: Ward) -> None:
    ward.nodes, ward.forbidden = [{"status": {"allocatable": {"nvidia.com/gpu": "0"}}}], set()
    assert ward.results() == SOUND | {"gpu": "warning", "secrets": "warning"}


@pytest.mark.parametrize(("holder", "alive"), [("pod-1_0a1b2c3d", False), ("", True)])
def test_a_lease_that_nobody_renews_fails(ward: Ward, holder: str, alive: bool) -> None:
    ward.holder, ward.alive = holder, alive
    assert ward.results() == SOUND | {"lease": "FAILED"}


def test_a_check_that_is_forbidden_fails_alone(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Listing:
        raise Rejected("list nodes: 403 Forbidden")

    monkeypatch.setattr(ward, "list", refuse)
    assert ward.results() == SOUND | {"gpu": "FAILED"}
    assert "403 Forbidden" in ward.findings()["gpu"].words
