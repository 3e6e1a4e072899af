"""Which of several replicas works: the holder of one coordination.k8s.io Lease.

The holder renews the Lease every two seconds. A standby takes it over when it is free, or when its record has not
changed for the record's own duration, counted by the standby's clock from when it saw it last change: clocks of
different machines are never compared. A holder that could not renew for two thirds of that time has lost the Lease for
good. From then on `Fenced` lets no write out, and the process ends; its successor waits the last third before it acts.
"""

from __future__ import annotations

import math
import random
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

import structlog

from dreambooth_api import names
from dreambooth_operator import metrics
from dreambooth_operator.cluster import LEASES, Cluster, ClusterError, Json, NotFound, NotLeading, Resource

log = structlog.get_logger()

SILENT_SECONDS = 300.0  # as for a watch: a standby that hears nothing of the Lease for so long is unhealthy


class LeaseStore(Protocol):
    """The Lease's three calls; each must give up within `Terms.call_seconds`."""

    def get(self, resource: Resource, namespace: str, name: str) -> Json: ...
    def create(self, resource: Resource, namespace: str | None, body: Json) -> Json: ...
    def update(self, resource: Resource, namespace: str, name: str, body: Json) -> Json: ...


@dataclass(frozen=True, slots=True)
class Terms:
    """All times follow from the Lease's duration, in the proportions of Kubernetes' own controllers: 15, 10, 2 s."""

    lease_seconds: float = 15.0

    @property
    def renew_deadline_seconds(self) -> float:
        return self.lease_seconds * 2 / 3

    @property
    def retry_seconds(self) -> float:
        return self.lease_seconds * 2 / 15

    @property
    def call_seconds(self) -> float:
        return self.retry_seconds * 0.9


def boot_clock() -> float:
    """Seconds since boot, those in which the machine slept included; monotonic time where no clock counts those."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Election:
    """One replica's part. `run` is its loop; `holds` may be asked from any thread."""

    def __init__(
        self,
        leases: LeaseStore,
        key: tuple[str, str],
        identity: str,
        progress_url: str,
        terms: Terms = Terms(),
        clock: Callable[[], float] = boot_clock,
    ) -> None:
        """`progress_url`: where this replica takes progress; written into the Lease while it holds it."""
        self._leases, self._key, self._terms, self._clock = leases, key, terms, clock
        # A container that restarts keeps its pod's name, and must not take its predecessor's Lease for its own.
        self.identity = f"{identity}_{secrets.token_hex(4)}"
        self._progress_url = progress_url
        self._seen: Json = {}  # the record as it was last seen to change, and when
        self._seen_at = self._heard = clock()
        self._answered = False
        self._elected = False
        self._renewed = float("-inf")
        self.leader_url = ""  # where the holder takes progress; empty: nobody holds the Lease

    def holds(self) -> bool:
        """Whether this replica may write, by its own clock alone."""
        return self._clock() - self._renewed < self._terms.renew_deadline_seconds

    @property
    def lost(self) -> bool:
        """Elected once and not any more: there is no way back but a new process."""
        return self._elected and not self.holds()

    def healthy(self) -> bool:
        return self._clock() - self._heard < SILENT_SECONDS

    def ready(self) -> bool:
        """The Lease could be read: when it is free, this replica can take it."""
        return self._answered

    def run(self, stop: threading.Event, elected: Callable[[], None], lost: Callable[[], None]) -> None:
        """Until `stop`, or until a Lease that was held is lost."""
        while not stop.is_set():
            if not self.lost:  # looked at first: a process that was stopped for long wakes up here
                self._try(elected)
            if self.lost:
                metrics.LEADER.set(0)
                log.error("lease_lost", identity=self.identity)
                lost()
                return
            stop.wait(self._terms.retry_seconds * random.uniform(0.8, 1.2))

    def turn(self) -> None:
        """Reads the Lease, and writes it when it is ours or can be taken. Raises ClusterError."""
        started = self._clock()
        try:
            lease = self._leases.get(LEASES, *self._key)
        except NotFound:
            lease = {}
        self._note(lease)
        if self._held_by_another(lease.get("spec") or {}):
            if self._elected:
                self._renewed = float("-inf")
            return
        self._write(lease, self.identity)
        self._renewed, self._elected = started, True  # ours from before it was asked for

    def release(self) -> None:
        """Frees the Lease, once nothing of this replica works any more. Raises ClusterError."""
        if not self._elected or not self.holds():
            return
        self._renewed = float("-inf")  # before it is asked for: the reply may be lost
        metrics.LEADER.set(0)
        lease = self._leases.get(LEASES, *self._key)
        if lease["spec"].get("holderIdentity") == self.identity:
            self._write(lease, "")
        log.info("lease_released", identity=self.identity)

    def _try(self, elected: Callable[[], None]) -> None:
        before = self._elected
        try:
            self.turn()
        except Exception as error:  # a race lost, or whatever it is: tried again, and a holder has its deadline
            words = str(error) if isinstance(error, ClusterError) else type(error).__name__
            log.warning("lease_not_renewed" if before else "lease_not_taken", error=words)
        if self._elected and not before:
            metrics.LEADER.set(1)
            log.info("elected", identity=self.identity, transitions=self._seen.get("leaseTransitions", 0))
            elected()

    def _note(self, lease: Json) -> None:
        spec, now = lease.get("spec") or {}, self._clock()
        self._heard, self._answered = now, True
        if spec != self._seen:
            self._seen, self._seen_at = spec, now
        metrics.LEASE_TRANSITIONS.set(spec.get("leaseTransitions") or 0)
        annotations = (lease.get("metadata") or {}).get("annotations") or {}
        self.leader_url = annotations.get(names.ANNOTATION_PROGRESS_URL, "")

    def _held_by_another(self, spec: Json) -> bool:
        if spec.get("holderIdentity") in (None, "", self.identity):
            return False
        duration = spec.get("leaseDurationSeconds") or self._terms.lease_seconds
        return self._clock() - self._seen_at < duration

    def _write(self, lease: Json, holder: str) -> None:
        """Writes the Lease as it was read, with `holder`; an empty one frees it."""
        namespace, name = self._key
        old = lease.get("spec") or {}
        metadata = lease.get("metadata") or {"namespace": namespace, "name": name}
        annotations = {names.ANNOTATION_PROGRESS_URL: self._progress_url if holder else ""}
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")  # for people; nobody computes with it
        changed = holder != old.get("holderIdentity")
        transitions = old.get("leaseTransitions") or 0
        body = {
            "apiVersion": LEASES.api_version,
            "kind": LEASES.kind,
            "metadata": metadata | {"annotations": (metadata.get("annotations") or {}) | annotations},
            "spec": {
                "holderIdentity": holder,
                "leaseDurationSeconds": math.ceil(self._terms.lease_seconds),
                "acquireTime": now if changed else old.get("acquireTime", now),
                "renewTime": now,
                "leaseTransitions": transitions + (1 if lease and holder and changed else 0),
            },
        }
        if lease:
            self._note(self._leases.update(LEASES, namespace, name, body))
        else:
            self._note(self._leases.create(LEASES, namespace, body))


class Fenced:
    """A Cluster whose writes are refused, before they are sent, while `holds` says no."""

    def __init__(self, cluster: Cluster, holds: Callable[[], bool]) -> None:
        self._cluster, self._holds = cluster, holds
        self.get, self.list, self.watch = cluster.get, cluster.list, cluster.watch

    def create(self, resource: Resource, namespace: str | None, body: Json) -> Json:
        self._check(f"create {resource.plural}")
        return self._cluster.create(resource, namespace, body)

    def delete(
        self, resource: Resource, namespace: str, name: str, *, uid: str, version: str, propagation: str
    ) -> Json:
        self._check(f"delete {resource.plural}")
        return self._cluster.delete(resource, namespace, name, uid=uid, version=version, propagation=propagation)

    def patch_status(self, resource: Resource, namespace: str, name: str, version: str, changes: Json) -> Json:
        self._check(f"patch {resource.plural}")
        return self._cluster.patch_status(resource, namespace, name, version, changes)

    def _check(self, call: str) -> None:
        if not self._holds():
            raise NotLeading(f"{call}: not sent, because another replica may hold the Lease by now")
