"""Who may report progress, and how often it becomes a write."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from dreambooth_api import names
from dreambooth_api.status import Progress, Stage
from dreambooth_operator.endpoints import progress_routes, serve
from dreambooth_operator.observe import Stores
from dreambooth_operator.progress import WRITES_PER_SECOND, ProgressBoard, ProgressDoor
from dreambooth_operator.queue import Key
from tests.unit.operator.builders import NOW, child_record, pod_record, record
from tests.unit.operator.memory import MemoryCluster


def review(pod: str, uid: str, *, audience: str = names.PROGRESS_AUDIENCE, namespace: str = "team") -> dict[str, Any]:
    extra = {"authentication.kubernetes.io/pod-name": [pod], "authentication.kubernetes.io/pod-uid": [uid]}
    user = {"username": f"system:serviceaccount:{namespace}:default", "extra": extra}
    return {"authenticated": True, "audiences": [audience], "user": user}


class Door:
    """A progress endpoint on a free port, in front of one running pod."""

    def __init__(self) -> None:
        self.cluster, self.stores, self.board = MemoryCluster(), Stores(), ProgressBoard()
        self.due: list[tuple[Key, float]] = []
        self.stores.jobs.put(record())
        self.stores.children.put(child_record())
        self.stores.pods.put(pod_record())
        self.cluster.tokens = {
            "good": review("rex-r0-p0", "pod-0-0"),
            "wrong audience": review("rex-r0-p0", "pod-0-0", audience="https://kubernetes.default.svc"),
            "wrong pod": review("rex-r0-p0", "pod-before"),
            "unknown pod": review("stranger", "pod-9"),
            "other namespace": review("rex-r0-p0", "pod-0-0", namespace="other"),
            "a user": {"authenticated": True, "audiences": [names.PROGRESS_AUDIENCE], "user": {"username": "anna"}},
        }
        door = ProgressDoor(self.cluster, self.stores, self.board, lambda k, s: self.due.append((k, s)), lambda: NOW)  # type: ignore[arg-type]
        self.server = serve(("127.0.0.1", 0), progress_routes(door.post))

    def post(self, token: str | None = "good", body: Any = None, **headers: str) -> int:
        if body is None:
            body = {"sequence": 1, "stage": "train", "step": 3, "totalSteps": 9}
        connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=5)
        text = body if isinstance(body, bytes) else json.dumps(body).encode()
        bearer = {"Authorization": f"Bearer {token}"} if token else {}
        connection.request("POST", names.PROGRESS_PATH, text, bearer | headers)
        code = connection.getresponse().status
        connection.close()
        return code


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door()
    yield door
    door.server.shutdown()
    door.server.server_close()


def test_the_running_pods_report_is_taken(door: Door) -> None:
    assert door.post() == 204
    assert door.due == [(("team", "rex"), 0.0)]
    due = door.board.due("pod-0-0")
    assert due is not None
    assert due[0].step == 3


@pytest.mark.parametrize(
    ("token", "code"),
    [
        (None, 401),
        ("nonsense", 401),
        ("wrong audience", 401),
        ("a user", 401),
        ("wrong pod", 403),
        ("unknown pod", 403),
        ("other namespace", 403),
    ],
)
def test_anybody_else_is_refused(door: Door, token: str | None, code: int) -> None:
    assert door.post(token) == code
    assert door.board.heard("pod-0-0") is None


@pytest.mark.parametrize(
    "change",
    [
        lambda stores: stores.pods.put(pod_record(0, phase="Failed", exit_code=1)),
        lambda stores: stores.pods.put(pod_record(1, created=0)),  # its successor
        lambda stores: stores.jobs.put(record(uid="a-new-rex")),
        lambda stores: stores.children.put(child_record(owner_uid="somebody else's")),
        lambda stores: stores.children.remove(child_record()),
    ],
)
def test_a_pod_that_is_not_the_jobs_current_one_is_refused(door: Door, change: Any) -> None:
    change(door.stores)
    assert door.post() == 403


def test_a_stray_pod_with_our_labels_does_not_silence_the_real_one(door: Door) -> None:
    door.stores.pods.put(replace(pod_record(7, created=0), job_uid=""))
    assert door.post() == 204


def test_the_sequence_must_rise(door: Door) -> None:
    assert [door.post(body={"sequence": n, "stage": "train"}) for n in (5, 5, 4, 6)] == [204, 409, 409, 204]


@pytest.mark.parametrize(
    ("body", "code"),
    [(b"{", 400), ({"sequence": 1, "stage": "lunch"}, 400), ({"stage": "train"}, 400), (b"x" * 70_000, 413)],
)
def test_a_body_that_is_no_report_is_refused(door: Door, body: Any, code: int) -> None:
    assert door.post(body=body) == code


def test_a_field_of_a_newer_job_is_ignored(door: Door) -> None:
    assert door.post(body={"sequence": 1, "stage": "train", "mood": "good"}) == 204


def test_the_api_server_is_asked_once_for_many_reports(door: Door) -> None:
    for sequence in range(10):
        assert door.post(body={"sequence": sequence, "stage": "train"}) == 204
    assert door.cluster.reads == ["review"]


def _report(sequence: int) -> Progress:
    return Progress(sequence=sequence, stage=Stage.TRAIN, step=sequence)


def test_one_job_is_written_once_in_ten_seconds_however_often_it_reports() -> None:
    clock = [100.0]
    board = ProgressBoard(lambda: clock[0])
    writes = []
    for sequence in range(60):
        assert board.post("pod", _report(sequence), NOW) is not None
        if due := board.due("pod"):
            writes.append((clock[0], due[0].sequence))
            board.written("pod")
        clock[0] += 1
    assert writes == [(100 + 10 * n, 10 * n) for n in range(6)]


def test_a_write_that_failed_is_due_still() -> None:
    board = ProgressBoard(lambda: 100.0)
    board.post("pod", _report(1), NOW)
    assert board.due("pod") == board.due("pod") is not None


def test_reports_do_not_hasten_a_write_that_fails() -> None:
    clock = [100.0]
    board = ProgressBoard(lambda: clock[0])
    assert board.post("pod", _report(1), NOW) == 0.0
    clock[0] += 2
    assert board.post("pod", _report(2), NOW) == 10.0


def test_before_its_slot_a_report_is_not_written() -> None:
    clock = [100.0]
    board = ProgressBoard(lambda: clock[0])
    board.post("pod", _report(1), NOW)
    board.written("pod")
    clock[0] += 1
    board.post("pod", _report(2), NOW)
    assert board.due("pod") is None
    clock[0] += 9
    due = board.due("pod")
    assert due is not None
    assert due[0].sequence == 2


def test_all_jobs_together_keep_to_the_budget() -> None:
    board = ProgressBoard(lambda: 100.0)
    waits = [board.post(f"pod-{n}", _report(1), NOW) or 0.0 for n in range(1000)]
    assert max(waits) == pytest.approx(999 / WRITES_PER_SECOND)
