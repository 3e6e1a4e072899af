"""The one door to the API server, and the only module that imports `kubernetes`.

The official package gives configuration, authentication and transport; bodies are plain JSON, because its typed models
cost ten times the CPU and its informer cannot watch custom objects. Every call has a timeout and none is retried here:
the queue's back-off is the only retry. Errors form a tree:

ClusterError                 the call failed; the message says which call and what the server answered
├── NotFound                 404
├── AlreadyExists            409 on create
├── Conflict                 409: the object is not the one that was read (resourceVersion, UID)
├── Gone                     410: the version asked for is compacted; list again
├── Rejected                 400, 403, 422: quota, policy, webhook, validation, rights; the same call fails again
├── NotLeading               never sent: this process does not hold the Lease
└── Unavailable              429, 5xx, network; `retry_after_seconds` when the server names it
"""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlencode

import urllib3
from kubernetes import client, config
from kubernetes.config.config_exception import ConfigException
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPSConnectionPool
from urllib3.util.ssl_ import create_urllib3_context

from dreambooth_api import names

Json = dict[str, Any]

CALL_TIMEOUT = urllib3.Timeout(connect=5, read=30)
SILENCE_SECONDS = 90  # a watch carries a bookmark about every minute; longer silence is a dead connection
PAGE_SIZE = 500
_KEEPALIVE = [
    *HTTPConnection.default_socket_options,
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
]


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind as the API server's paths name it."""

    root: str
    plural: str
    api_version: str
    kind: str

    def path(self, namespace: str | None = None, name: str | None = None, subresource: str | None = None) -> str:
        parts = [self.root, *(("namespaces", namespace) if namespace else ()), self.plural, name, subresource]
        return "/".join(p for p in parts if p)


TRAINING_JOBS = Resource(f"/apis/{names.API_VERSION}", names.PLURAL, names.API_VERSION, names.KIND)
JOBS = Resource("/apis/batch/v1", "jobs", "batch/v1", "Job")
PODS = Resource("/api/v1", "pods", "v1", "Pod")
EVENTS = Resource("/apis/events.k8s.io/v1", "events", "events.k8s.io/v1", "Event")
TOKEN_REVIEWS = Resource("/apis/authentication.k8s.io/v1", "tokenreviews", "authentication.k8s.io/v1", "TokenReview")
LEASES = Resource("/apis/coordination.k8s.io/v1", "leases", "coordination.k8s.io/v1", "Lease")
# What only the doctor asks for.
NODES = Resource("/api/v1", "nodes", "v1", "Node")
CRDS = Resource(
    "/apis/apiextensions.k8s.io/v1", "customresourcedefinitions", "apiextensions.k8s.io/v1", "CustomResourceDefinition"
)
ACCESS_REVIEWS = Resource(
    "/apis/authorization.k8s.io/v1", "subjectaccessreviews", "authorization.k8s.io/v1", "SubjectAccessReview"
)


class _Connection(HTTPSConnection):
    """Accepts the certificates that Kubernetes' other clients accept.

    Python 3.13 refuses those that lack what RFC 5280 asks of them beyond a valid signature, an authority key identifier
    for example; many clusters' own authorities made such.
    """

    def connect(self) -> None:
        # One context a connection: urllib3 loads the files into it when it connects, and OpenSSL crashes when a
        # second thread shakes hands with a context that is being loaded.
        self.ssl_context = create_urllib3_context()
        self.ssl_context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        super().connect()


class _Pool(HTTPSConnectionPool):
    ConnectionCls = _Connection


class ClusterError(Exception):
    code: int = 0  # HTTP's; 0: no answer
    retry_after_seconds: float | None = None


class NotFound(ClusterError): ...


class AlreadyExists(ClusterError): ...


class Conflict(ClusterError): ...


class Gone(ClusterError): ...


class Rejected(ClusterError): ...


class NotLeading(ClusterError): ...


class Unavailable(ClusterError): ...


@dataclass(frozen=True, slots=True)
class Listing:
    items: list[Json]
    version: str  # where a watch goes on


class Cluster(Protocol):
    """What the operator does to a cluster. Objects are JSON; `version` is a resourceVersion."""

    def get(self, resource: Resource, namespace: str, name: str) -> Json: ...
    def list(self, resource: Resource, namespace: str | None, selector: str) -> Listing: ...
    def watch(
        self, resource: Resource, namespace: str | None, selector: str, version: str, timeout_seconds: int
    ) -> Iterator[Json]:
        """Events {type, object} after `version`, bookmarks too; ends when the server ends it. Raises Gone."""
        ...

    def create(self, resource: Resource, namespace: str | None, body: Json) -> Json: ...
    def delete(
        self, resource: Resource, namespace: str, name: str, *, uid: str, version: str, propagation: str
    ) -> Json: ...
    def patch_status(self, resource: Resource, namespace: str, name: str, version: str, changes: Json) -> Json:
        """A merge patch of the status subresource; refused with Conflict when the object has moved on."""
        ...


def error_from(call: str, status: int, body: bytes, headers: Mapping[str, str]) -> ClusterError:
    """The leaf of the tree for one answer of the server, or for one ERROR event of a watch."""
    try:
        answer = json.loads(body)
        reason, message = str(answer.get("reason", "")), str(answer.get("message", ""))
    except (ValueError, AttributeError):
        reason, message = "", body[:200].decode(errors="replace")
    leaf: type[ClusterError] = {404: NotFound, 409: Conflict, 410: Gone}.get(
        status, Unavailable if status == 429 or status >= 500 else Rejected
    )
    if status == 409 and reason == "AlreadyExists":
        leaf = AlreadyExists
    error = leaf(f"{call}: {status} {reason}: {message}" if reason else f"{call}: {status}: {message}")
    error.code = status
    if (seconds := headers.get("Retry-After", "")).isdigit():
        error.retry_after_seconds = float(seconds)
    return error


class KubeCluster:
    """The real cluster. `observe(verb, plural, code)` is told of every call, for metrics."""

    def __init__(
        self,
        api: client.ApiClient,
        observe: Callable[[str, str, str], None] = lambda *_: None,
        timeout: urllib3.Timeout = CALL_TIMEOUT,
    ) -> None:
        self._api, self._observe, self._timeout = api, observe, timeout

    def get(self, resource: Resource, namespace: str | None, name: str) -> Json:
        return self._call("GET", "get", resource, resource.path(namespace, name))

    def list(self, resource: Resource, namespace: str | None, selector: str) -> Listing:
        query = {"limit": str(PAGE_SIZE), "labelSelector": selector}
        items: list[Json] = []
        while True:
            page = self._call("GET", "list", resource, resource.path(namespace), query=query)
            items += page.get("items") or []
            if not (token := page["metadata"].get("continue")):
                return Listing(items, page["metadata"]["resourceVersion"])
            query = query | {"continue": token}

    def watch(
        self, resource: Resource, namespace: str | None, selector: str, version: str, timeout_seconds: int
    ) -> Iterator[Json]:
        query = {
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(timeout_seconds),
            "labelSelector": selector,
        }
        timeout = urllib3.Timeout(connect=5, read=SILENCE_SECONDS)
        response = self._send("GET", "watch", resource, resource.path(namespace), query, timeout=timeout, stream=True)
        try:
            for line in _lines(response):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    call = f"watch {resource.plural}"
                    raise error_from(call, int(status.get("code", 500)), json.dumps(status).encode(), {})
                yield event
        except urllib3.exceptions.HTTPError as error:
            raise Unavailable(f"watch {resource.plural}: {type(error).__name__}: {error}") from error
        finally:
            response.close()

    def create(self, resource: Resource, namespace: str | None, body: Json) -> Json:
        return self._call("POST", "create", resource, resource.path(namespace), body=body)

    def update(self, resource: Resource, namespace: str, name: str, body: Json) -> Json:
        """Replaces the whole object; refused with Conflict when it is not the version in `body` any more."""
        return self._call("PUT", "update", resource, resource.path(namespace, name), body=body)

    def delete(
        self, resource: Resource, namespace: str, name: str, *, uid: str, version: str, propagation: str
    ) -> Json:
        body = {
            "kind": "DeleteOptions",
            "apiVersion": "v1",
            "propagationPolicy": propagation,
            "preconditions": {"uid": uid, "resourceVersion": version},
        }
        return self._call("DELETE", "delete", resource, resource.path(namespace, name), body=body)

    def patch_status(self, resource: Resource, namespace: str, name: str, version: str, changes: Json) -> Json:
        body = {"metadata": {"resourceVersion": version}, "status": changes}
        path = resource.path(namespace, name, "status")
        return self._call("PATCH", "patch", resource, path, body=body, content_type="application/merge-patch+json")

    def _call(
        self,
        method: str,
        verb: str,
        resource: Resource,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        content_type: str = "application/json",
    ) -> Json:
        answer: Json = json.loads(self._send(method, verb, resource, path, query, body, content_type).data)
        return answer

    def _send(
        self,
        method: str,
        verb: str,
        resource: Resource,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Json | None = None,
        content_type: str = "application/json",
        *,
        timeout: urllib3.Timeout | None = None,
        stream: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        headers = {"Accept": "application/json", "Content-Type": content_type, **self._api.default_headers}
        self._api.update_params_for_auth(headers, [], ["BearerToken"])  # refreshes a token that has run out
        url = self._api.configuration.host + path + ("?" + urlencode(query) if query else "")
        try:
            response: urllib3.BaseHTTPResponse = self._api.rest_client.pool_manager.request(
                method, url, body=json.dumps(body) if body is not None else None, headers=headers,
                timeout=timeout or self._timeout, preload_content=not stream,
            )  # fmt: skip
        except urllib3.exceptions.HTTPError as error:
            self._observe(verb, resource.plural, "network")
            raise Unavailable(f"{verb} {resource.plural}: {type(error).__name__}: {error}") from error
        self._observe(verb, resource.plural, str(response.status))
        if response.status >= 300:
            raise error_from(f"{verb} {resource.plural}", response.status, response.data, response.headers)
        return response


def _lines(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """Whole lines of a stream whose chunks end anywhere."""
    rest = b""
    for chunk in response.stream(None):
        *whole, rest = (rest + chunk).split(b"\n")
        yield from (line for line in whole if line)


def connect(
    connections: int,
    observe: Callable[[str, str, str], None] = lambda *_: None,
    kubeconfig: str | None = None,
    timeout: urllib3.Timeout = CALL_TIMEOUT,
) -> KubeCluster:
    """The cluster of `kubeconfig`, $KUBECONFIG or ~/.kube/config, else the one this pod runs in.

    Raises Unavailable when there is none.
    """
    configuration = client.Configuration()
    try:
        config.load_kube_config(kubeconfig, client_configuration=configuration)
    except ConfigException:
        try:
            config.load_incluster_config(client_configuration=configuration)
        except ConfigException as error:
            raise Unavailable("no cluster: set KUBECONFIG, or run in a pod with a ServiceAccount") from error
    configuration.retries = False  # the queue retries; the transport's own would hide a half-done write
    configuration.connection_pool_maxsize = connections
    configuration.socket_options = _KEEPALIVE
    api = client.ApiClient(configuration)
    api.user_agent = "dreambooth-operator"
    pools = api.rest_client.pool_manager
    pools.pool_classes_by_scheme = pools.pool_classes_by_scheme | {"https": _Pool}
    return KubeCluster(api, observe, timeout)
