"""`dreambooth-operator doctor`: asks a cluster whether this operator can work there; one line per check.

It runs with a ServiceAccount of its own, which may get this CustomResourceDefinition and the operator's Lease, list
nodes and create SubjectAccessReviews.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from dreambooth_api import names
from dreambooth_api.crd import crd
from dreambooth_api.spec import Gpu
from dreambooth_operator.cluster import (
    ACCESS_REVIEWS,
    CRDS,
    LEASES,
    NODES,
    ClusterError,
    Json,
    KubeCluster,
    NotFound,
    connect,
)
from dreambooth_operator.rights import RIGHTS, Right, Scope
from dreambooth_operator.settings import SettingError, Settings

ACCOUNT = "DREAMBOOTH_OPERATOR_ACCOUNT"
PATIENCE_SECONDS = 45.0  # three Leases long: an operator that was installed a moment ago is still to be elected


class Result(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "FAILED"


@dataclass(frozen=True, slots=True)
class Finding:
    result: Result
    check: str
    words: str

    def __str__(self) -> str:
        return f"{self.result:<8} {self.check:<8} {self.words}"


def main(settings: Settings) -> int:
    """0: no check failed. Raises ClusterError without a cluster, SettingError without an account."""
    failed = False
    for finding in examine(connect(2), settings, _account()):
        print(finding, flush=True)
        failed |= finding.result is Result.FAILED
    return 1 if failed else 0


def examine(
    cluster: KubeCluster,
    settings: Settings,
    account: tuple[str, str],
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[Finding]:
    checks: dict[str, Callable[[], Iterator[Finding]]] = {
        "crd": lambda: _crd(cluster),
        "rights": lambda: _rights(cluster, settings, account),
        "secrets": lambda: _secrets(cluster, settings, account),
        "gpu": lambda: _gpu(cluster),
        "lease": lambda: _lease(cluster, settings, sleep),
    }
    for name, check in checks.items():
        try:
            yield from check()
        except ClusterError as error:
            yield Finding(Result.FAILED, name, f"cannot be checked: {error}")


def _account() -> tuple[str, str]:
    text = os.environ.get(ACCOUNT, "")
    namespace, _, name = text.partition(":")
    if not namespace or not name:
        raise SettingError(f"{ACCOUNT} is {text!r}; expected <namespace>:<ServiceAccount of the operator>")
    return namespace, name


def _crd(cluster: KubeCluster) -> Iterator[Finding]:
    ours = crd()
    name = ours["metadata"]["name"]
    again = "apply the CRD that came with this operator"
    try:
        theirs = cluster.get(CRDS, None, name)
    except NotFound:
        yield Finding(Result.FAILED, "crd", f"{name} is not installed; {again}")
        return
    version = next((v for v in theirs["spec"]["versions"] if v["name"] == names.VERSION and v["served"]), None)
    if version is None:
        yield Finding(Result.FAILED, "crd", f"{name} is not served as {names.VERSION}; {again}")
    elif field := difference(
        ours["spec"]["versions"][0]["schema"]["openAPIV3Schema"], version["schema"]["openAPIV3Schema"]
    ):
        yield Finding(Result.FAILED, "crd", f"{name} has another schema than this operator, first at {field}; {again}")
    else:
        yield Finding(Result.OK, "crd", f"{name} is served as {names.VERSION} with this operator's schema")


def difference(ours: Any, theirs: Any, path: str = "") -> str:
    """The path of the first difference; empty: there is none."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(ours.keys() | theirs.keys()):
            if key not in ours or key not in theirs:
                return f"{path}.{key}".removeprefix(".")
            if found := difference(ours[key], theirs[key], f"{path}.{key}"):
                return found
        return ""
    return "" if ours == theirs else path.removeprefix(".") or "its top"


def _rights(cluster: KubeCluster, settings: Settings, account: tuple[str, str]) -> Iterator[Finding]:
    asked = [(right, place) for right in RIGHTS for place in _places(right, settings)]
    missing = [(right, place) for right, place in asked if not _allowed(cluster, account, right, place)]
    for right, place in missing:
        yield Finding(Result.FAILED, "rights", f"the operator may not {right} {place}; needed: {right.reason}")
    if not missing:
        yield Finding(Result.OK, "rights", f"the operator has the {len(asked)} rights it needs")


@dataclass(frozen=True, slots=True)
class Place:
    namespace: str = ""  # empty: all, or none
    name: str = ""  # empty: any

    def __str__(self) -> str:
        if self.name:
            return f"on {self.namespace}/{self.name}"
        return f"in namespace {self.namespace}" if self.namespace else "in the whole cluster"


def _places(right: Right, settings: Settings) -> list[Place]:
    match right.scope:
        case Scope.SERVED:
            return _served(settings)
        case Scope.CLUSTER:
            return [Place()]
        case Scope.OWN:
            return [Place(settings.lease[0])] if settings.lease else []
        case Scope.LEASE:
            return [Place(*settings.lease)] if settings.lease else []


def _served(settings: Settings) -> list[Place]:
    return [Place(namespace) for namespace in settings.namespaces] or [Place()]


def _secrets(cluster: KubeCluster, settings: Settings, account: tuple[str, str]) -> Iterator[Finding]:
    if any(_allowed(cluster, account, Right("", "secrets", "get", ""), place) for place in _served(settings)):
        yield Finding(Result.WARNING, "secrets", "the operator may read Secrets; it never does: take that right away")
    else:
        yield Finding(Result.OK, "secrets", "the operator may not read Secrets")


def _allowed(cluster: KubeCluster, account: tuple[str, str], right: Right, place: Place) -> bool:
    resource, _, subresource = right.resource.partition("/")
    attributes = {"group": right.group, "resource": resource, "subresource": subresource, "verb": right.verb,
                  "namespace": place.namespace, "name": place.name}  # fmt: skip
    user = f"system:serviceaccount:{account[0]}:{account[1]}"
    groups = ["system:serviceaccounts", f"system:serviceaccounts:{account[0]}", "system:authenticated"]
    body = {
        "apiVersion": ACCESS_REVIEWS.api_version,
        "kind": ACCESS_REVIEWS.kind,
        "spec": {"user": user, "groups": groups, "resourceAttributes": attributes},
    }
    return bool(cluster.create(ACCESS_REVIEWS, None, body)["status"].get("allowed"))


def _gpu(cluster: KubeCluster) -> Iterator[Finding]:
    resource = Gpu().resource
    nodes = cluster.list(NODES, None, "").items
    offering = [n for n in nodes if n.get("status", {}).get("allocatable", {}).get(resource, "0") != "0"]
    if offering:
        yield Finding(Result.OK, "gpu", f"{len(offering)} of {len(nodes)} nodes offer {resource}")
    else:
        words = f"none of {len(nodes)} nodes offers {resource}: TrainingJobs wait until one does (is its device plugin "
        yield Finding(Result.WARNING, "gpu", words + "running?), unless they set runtime.gpu to another or to none")


def _lease(cluster: KubeCluster, settings: Settings, sleep: Callable[[float], None]) -> Iterator[Finding]:
    """Alive is a holder that renews before our eyes; times in the record are of another machine's clock."""
    if settings.lease is None:
        yield Finding(Result.OK, "lease", "none: this operator is to run as one replica")
        return
    key = "/".join(settings.lease)
    step = settings.lease_seconds / 5
    seen: Json | None = None
    for _ in range(int(PATIENCE_SECONDS / step)):
        try:
            spec: Json = cluster.get(LEASES, *settings.lease)["spec"]
        except NotFound:
            spec = {}
        holder = spec.get("holderIdentity")
        if holder and seen and seen.get("holderIdentity") == holder and seen["renewTime"] != spec["renewTime"]:
            yield Finding(Result.OK, "lease", f"{key} is held by {holder.rpartition('_')[0]}")
            return
        seen = spec
        sleep(step)
    yield Finding(Result.FAILED, "lease", f"nobody renews {key}; read the operator's log (does a replica run?)")
