"""The way in for Progress: POST /v1/progress from a training pod; its other end is the job's progress.py.

A pod proves who it is with a projected token: the API server's TokenReview checks signature, expiry and audience and
names the pod. It must be the running pod of a Job of a TrainingJob, so a pod that was replaced cannot speak for its
successor. Records stay in memory, the newest per pod; a status write carries them, at most one per job in ten seconds
and twenty per second in all, however many pods report.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

import structlog
from pydantic import ValidationError

from dreambooth_api import names
from dreambooth_api.status import Progress, ProgressStatus
from dreambooth_operator import metrics
from dreambooth_operator.attempts import stamp
from dreambooth_operator.cluster import TOKEN_REVIEWS, Cluster, ClusterError, Json, Rejected
from dreambooth_operator.endpoints import Answer, Request, body_length
from dreambooth_operator.observe import Pod, Stores
from dreambooth_operator.queue import Key

log = structlog.get_logger()

JOB_PERIOD_SECONDS = 10.0
WRITES_PER_SECOND = 20.0
REVIEW_SECONDS = 60.0  # a TokenReview's answer holds so long
REVIEWS_KEPT = PODS_KEPT = 20_000
EXTRA = "authentication.kubernetes.io/"


_Review = tuple[float, Key | None, str]  # until, pod, its UID


@dataclass(slots=True)
class _Entry:
    progress: Progress
    heard: datetime
    slot: float | None  # when a status write may carry the record; None: one has carried the newest before it
    written: float = float("-inf")


class ProgressBoard:
    """The newest record of each pod."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, _Entry] = OrderedDict()  # by pod UID
        self._next_write = 0.0

    def post(self, pod_uid: str, progress: Progress, now: datetime) -> float | None:
        """Keeps the record; returns in how many seconds its status write is due, None if it is an old record.

        A write that is overdue is one that fails: reports do not hasten it past its back-off.
        """
        with self._lock:
            clock = self._clock()
            entry = self._entries.get(pod_uid)
            if entry is None:
                entry = self._entries[pod_uid] = _Entry(progress, now, None)
            elif progress.sequence <= entry.progress.sequence:
                return None
            entry.progress, entry.heard = progress, now
            overdue = entry.slot is not None and entry.slot < clock
            if entry.slot is None:
                entry.slot = max(clock, entry.written + JOB_PERIOD_SECONDS, self._next_write)
                self._next_write = max(clock, self._next_write) + 1 / WRITES_PER_SECOND
            self._entries.move_to_end(pod_uid)
            while len(self._entries) > PODS_KEPT:
                self._entries.popitem(last=False)
            return JOB_PERIOD_SECONDS if overdue else max(0.0, entry.slot - clock)

    def due(self, pod_uid: str) -> tuple[Progress, datetime] | None:
        """The newest record, if a status write may carry it now."""
        with self._lock:
            entry = self._entries.get(pod_uid)
            if entry is None or entry.slot is None or entry.slot > self._clock():
                return None
            return entry.progress, entry.heard

    def written(self, pod_uid: str) -> None:
        """A status write has carried the record: the next one waits its time."""
        with self._lock:
            if entry := self._entries.get(pod_uid):
                entry.slot, entry.written = None, self._clock()

    def heard(self, pod_uid: str) -> datetime | None:
        with self._lock:
            entry = self._entries.get(pod_uid)
            return entry.heard if entry else None


def to_status(pod_uid: str, progress: Progress, heard: datetime) -> ProgressStatus:
    return ProgressStatus(
        pod_uid=pod_uid,
        sequence=progress.sequence,
        observed_time=stamp(heard),
        stage=progress.stage,
        step=progress.step,
        total_steps=progress.total_steps,
        percentage=min(100, 100 * progress.step // progress.total_steps) if progress.total_steps > 0 else 0,
        loss=None if progress.loss is None else f"{progress.loss:.4f}",
        steps_per_second=None if progress.steps_per_second is None else f"{progress.steps_per_second:.2f}",
        eta_seconds=progress.eta_seconds,
    )


class ProgressDoor:
    """Checks who posts, and puts the record on the board."""

    def __init__(
        self,
        cluster: Cluster,
        stores: Stores,
        board: ProgressBoard,
        due: Callable[[Key, float], None],
        now: Callable[[], datetime],
    ) -> None:
        self._cluster, self._stores, self._board, self._due, self._now = cluster, stores, board, due, now
        self._reviews: OrderedDict[str, _Review] = OrderedDict()  # by the token's hash
        self._lock = threading.Lock()

    def post(self, request: Request) -> Answer:
        answer = self._post(request)
        metrics.PROGRESS_POSTS.labels(str(answer.code)).inc()
        return answer

    def _post(self, request: Request) -> Answer:
        length = body_length(request, names.PROGRESS_BODY_LIMIT_BYTES)
        if isinstance(length, Answer):
            return length
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not token:
            return Answer(401, "a bearer token is missing\n")
        body = request.read(length)
        try:
            key, uid = self._review(token)
        except ClusterError as error:
            log.warning("token_review_failed", error=str(error))
            return Answer(503, "the token cannot be checked at the moment\n")
        if key is None:
            return Answer(401, f"the token is not valid for audience {names.PROGRESS_AUDIENCE}, or names no pod\n")
        pod = self._current(key, uid)
        if pod is None:
            return Answer(403, "the token's pod is not the running pod of a TrainingJob\n")
        try:
            progress = Progress.model_validate_json(body)
        except ValidationError:
            return Answer(400, "the body is not a Progress record\n")
        seconds = self._board.post(uid, progress, self._now())
        if seconds is None:
            return Answer(409, "a newer record has been received\n")
        self._due(pod.owner, seconds)
        return Answer(204)

    def _review(self, token: str) -> tuple[Key | None, str]:
        """Namespace and name of the token's pod, and its UID; asks the API server once a minute."""
        digest, clock = sha256(token.encode()).hexdigest(), time.monotonic()
        with self._lock:
            until, key, uid = self._reviews.get(digest, (0.0, None, ""))
        if until > clock:
            return key, uid
        body = {
            "apiVersion": TOKEN_REVIEWS.api_version,
            "kind": TOKEN_REVIEWS.kind,
            "spec": {"token": token, "audiences": [names.PROGRESS_AUDIENCE]},
        }
        try:
            key, uid = _pod_of(self._cluster.create(TOKEN_REVIEWS, None, body)["status"])
        except Rejected:
            key, uid = None, ""  # not a token at all
        with self._lock:
            self._reviews[digest] = (clock + REVIEW_SECONDS, key, uid)
            while len(self._reviews) > REVIEWS_KEPT:
                self._reviews.popitem(last=False)
        return key, uid

    def _current(self, key: Key, uid: str) -> Pod | None:
        """The token's pod, if it is the newest of the TrainingJob's own Job and has not ended."""
        pod = self._stores.pods.get(key)
        if pod is None or pod.uid != uid or pod.over:
            return None
        job = self._stores.jobs.get(pod.owner)
        children = [c for c in self._stores.children.owned_by(pod.owner) if c.uid == pod.job_uid]
        if job is None or pod.training_job_uid != job.uid or not any(c.owner_uid == job.uid for c in children):
            return None
        siblings = [p for p in self._stores.pods.owned_by(pod.owner) if p.job_uid == pod.job_uid]
        return pod if all(p.created <= pod.created for p in siblings) else None


def _pod_of(status: Json) -> tuple[Key | None, str]:
    if not status.get("authenticated") or names.PROGRESS_AUDIENCE not in (status.get("audiences") or []):
        return None, ""
    user = status.get("user") or {}
    extra = user.get("extra") or {}
    name, uid = (next(iter(extra.get(EXTRA + field) or []), "") for field in ("pod-name", "pod-uid"))
    parts = str(user.get("username", "")).split(":")  # system:serviceaccount:<namespace>:<name>
    if len(parts) != 4 or parts[:2] != ["system", "serviceaccount"] or not name or not uid:
        return None, ""
    return (parts[2], name), uid
