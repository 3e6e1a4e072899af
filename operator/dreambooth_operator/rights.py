"""What the operator may do to a cluster, and why: the one list. Chart, doctor, devcluster and docs follow it.

A test takes away one right at a time and sees something fail, so none can stay in the list without need.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from dreambooth_api import names


class Scope(StrEnum):
    SERVED = "the namespaces served"
    CLUSTER = "the cluster"
    OWN = "its own namespace"
    LEASE = "its own Lease"  # by name, which a right to create cannot have


@dataclass(frozen=True, slots=True)
class Right:
    group: str
    resource: str  # with its subresource
    verb: str
    reason: str
    scope: Scope = Scope.SERVED

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}" + (f".{self.group}" if self.group else "")


RIGHTS: tuple[Right, ...] = (
    Right(names.GROUP, names.PLURAL, "list", "To know them all at the start, and after a watch was lost for too long."),
    Right(names.GROUP, names.PLURAL, "watch", "To hear of changes at once."),
    Right(names.GROUP, names.PLURAL, "get", "To read one as it is now before a Job is made for it or it is deleted."),
    Right(names.GROUP, names.PLURAL, "delete", "For runPolicy.ttlSecondsAfterFinished."),
    Right(names.GROUP, f"{names.PLURAL}/status", "patch", "To write status."),
    Right(
        names.GROUP, f"{names.PLURAL}/finalizers", "update",
        "To own Jobs with blockOwnerDeletion, where the admission plugin OwnerReferencesPermissionEnforcement is on "
        "(OpenShift). No finalizer is ever set.",
    ),
    Right("batch", "jobs", "list", "To know the Jobs of all runs."),
    Right("batch", "jobs", "watch", "To hear how they end."),
    Right("batch", "jobs", "get", "To read one as it is now before it is deleted, or when its name is taken."),
    Right("batch", "jobs", "create", "To start a run."),
    Right("batch", "jobs", "delete", "To stop a run: suspension, deadline, limits."),
    Right("", "pods", "list", "To know the pods of all runs: state, exit code, last words."),
    Right("", "pods", "watch", "To hear of their changes."),
    Right("events.k8s.io", "events", "create", "To tell people what happened."),
    Right(
        "authentication.k8s.io", "tokenreviews", "create", "To check whose token came with a progress record.",
        Scope.CLUSTER,
    ),
    Right("coordination.k8s.io", "leases", "get", "To see which replica leads.", Scope.LEASE),
    Right("coordination.k8s.io", "leases", "create", "To make the Lease, once.", Scope.OWN),
    Right("coordination.k8s.io", "leases", "update", "To take, renew and free it.", Scope.LEASE),
)  # fmt: skip


def rules(rights: Iterable[Right], lease: str) -> list[dict[str, Any]]:
    """As a Role lists them, one rule per resource; `lease` is the name of the operator's own."""
    verbs: dict[tuple[str, str, bool], list[str]] = {}
    for right in rights:
        verbs.setdefault((right.group, right.resource, right.scope is Scope.LEASE), []).append(right.verb)
    return [
        {"apiGroups": [group], "resources": [resource], "verbs": sorted(found)}
        | ({"resourceNames": [lease]} if named else {})
        for (group, resource, named), found in verbs.items()
    ]
