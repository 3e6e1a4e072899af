"""An in-memory Cluster with the API server's rules about versions, and a list of every write."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

from dreambooth_operator.cluster import (
    TOKEN_REVIEWS,
    AlreadyExists,
    Conflict,
    Json,
    Listing,
    NotFound,
    Resource,
)
from tests.unit.operator.builders import NOW, at


class MemoryCluster:
    def __init__(self, *objects: tuple[Resource, Json]) -> None:
        self.version = 100
        self.objects: dict[tuple[str, str, str], Json] = {}
        self.writes: list[str] = []
        self.reads: list[str] = []
        self.tokens: dict[str, Json] = {}  # token -> status of its TokenReview
        self.refuse_create: Exception | None = None
        for resource, item in objects:
            self.objects[resource.plural, item["metadata"]["namespace"], item["metadata"]["name"]] = item

    def get(self, resource: Resource, namespace: str, name: str) -> Json:
        self.reads.append(f"get {resource.plural}/{name}")
        return copy.deepcopy(self._find(resource, namespace, name))

    def list(self, resource: Resource, namespace: str | None, selector: str) -> Listing:
        items = [o for (plural, space, _), o in self.objects.items()
                 if plural == resource.plural and namespace in (None, space)
                 and (not selector or selector in o["metadata"].get("labels", {}))]  # fmt: skip
        return Listing(copy.deepcopy(items), str(self.version))

    def watch(
        self, resource: Resource, namespace: str | None, selector: str, version: str, timeout_seconds: int
    ) -> Iterator[Json]:
        return iter(())

    def create(self, resource: Resource, namespace: str | None, body: Json) -> Json:
        if resource is TOKEN_REVIEWS:
            self.reads.append("review")
            return {"status": self.tokens.get(body["spec"]["token"], {"authenticated": False})}
        if self.refuse_create and resource.plural == "jobs":
            raise self.refuse_create
        key = (resource.plural, namespace or "", body["metadata"]["name"])
        if key in self.objects:
            raise AlreadyExists(key[2])
        self.writes.append(f"create {resource.plural}/{key[2]}")
        item: dict[str, Any] = json.loads(json.dumps(body))
        self.version += 1
        item["metadata"] |= {
            "uid": f"uid-{self.version}", "resourceVersion": str(self.version), "creationTimestamp": at(0),
        }  # fmt: skip
        self.objects[key] = item
        return copy.deepcopy(item)

    def delete(
        self, resource: Resource, namespace: str, name: str, *, uid: str, version: str, propagation: str
    ) -> Json:
        item = self._find(resource, namespace, name)
        if (item["metadata"]["uid"], item["metadata"]["resourceVersion"]) != (uid, version):
            raise Conflict("precondition failed")
        self.writes.append(f"delete {resource.plural}/{name} {propagation}")
        if propagation == "Foreground":
            self.touch(item)
            item["metadata"]["deletionTimestamp"] = at(0)
        else:
            del self.objects[resource.plural, namespace, name]
        return copy.deepcopy(item)

    def patch_status(self, resource: Resource, namespace: str, name: str, version: str, changes: Json) -> Json:
        item = self._find(resource, namespace, name)
        if item["metadata"]["resourceVersion"] != version:
            raise Conflict("the object has been modified")
        self.writes.append(f"status {resource.plural}/{name}")
        item["status"] = merged(item.get("status", {}), changes)
        self.touch(item)
        return copy.deepcopy(item)

    def update(self, resource: Resource, namespace: str, name: str, body: Json) -> Json:
        item = self._find(resource, namespace, name)
        if item["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
            raise Conflict("the object has been modified")
        self.writes.append(f"update {resource.plural}/{name}")
        self.put(resource, copy.deepcopy(body))
        return self.get(resource, namespace, name)

    def touch(self, item: Json) -> None:
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)

    def put(self, resource: Resource, item: Json) -> None:
        self.touch(item)
        self.objects[resource.plural, item["metadata"]["namespace"], item["metadata"]["name"]] = item

    def _find(self, resource: Resource, namespace: str, name: str) -> Json:
        try:
            return self.objects[resource.plural, namespace, name]
        except KeyError:
            raise NotFound(name) from None


def merged(old: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    result = dict(old) if isinstance(old, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


__all__ = ["NOW", "MemoryCluster", "merged"]
