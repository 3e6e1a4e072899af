"""Real endings of the real job: a full volume, signals to its first process, a nameless user on a read-only root."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.faults.boxes import first_process, needs_namespaces, read_only_root, small_volume
from tests.faults.servers import FreshBucket
from tests.jobs import Attempt, JobBucket, job_bucket

pytestmark = needs_namespaces
MOST_KIB = 200 * 1024


@pytest.fixture
def jobs(fresh_bucket: FreshBucket, tmp_path: Path) -> JobBucket:
    return job_bucket(fresh_bucket, tmp_path)


def base_kib(jobs: JobBucket) -> int:
    return sum(path.stat().st_size for path in (jobs.folder / "base").rglob("*") if path.is_file()) >> 10


def wait_for_line(attempt: Attempt, event: str) -> None:
    while event not in attempt.log:
        assert attempt.process.poll() is None, attempt.log
        time.sleep(0.05)


# Room for so many base models -> where the room ends.
ROOM = {0.0: "libraries' folders", 0.5: "the plan", 1.05: "a download", 1.5: "a checkpoint", 3.9: "the result"}


@pytest.mark.parametrize("bases", ROOM, ids=ROOM.get)
def test_a_full_volume_has_its_reason_wherever_it_fills_up(jobs: JobBucket, bases: float) -> None:
    spec = jobs.spec(method={"full": {}}, training={"steps": 2}, checkpoints={"everySteps": 1})
    attempt = jobs.start(spec, around=small_volume(int(bases * base_kib(jobs)) or 4))
    outcome = attempt.end()
    assert outcome.reason == "ScratchFull", attempt.log
    assert "MiB are free" in outcome.message
    assert "runtime.scratch.sizeLimit" in outcome.message
    assert "out/manifest.json" not in jobs.keys("out/")


def test_a_user_without_a_name_on_a_read_only_root_needs_nothing_but_scratch(jobs: JobBucket) -> None:
    attempt = jobs.start(jobs.spec(training={"steps": 2}), around=read_only_root(MOST_KIB))
    outcome = attempt.end()
    assert outcome.reason == "Completed", attempt.log
    assert outcome.purge is not None
    assert outcome.purge.files > 10
    assert sorted(path.name for path in attempt.folder.iterdir()) == ["log", "message", "scratch"]


def test_the_first_process_of_a_container_hears_sigterm_and_leaves_a_checkpoint(jobs: JobBucket) -> None:
    attempt = jobs.start(jobs.spec(training={"steps": 500}, checkpoints={"everySteps": 3}), around=first_process())
    wait_for_line(attempt, "checkpoint_saved")
    (first,) = Path(f"/proc/{attempt.process.pid}/task/{attempt.process.pid}/children").read_text().split()
    os.kill(int(first), signal.SIGTERM)
    outcome = attempt.end()
    assert outcome.reason == "Interrupted"
    assert outcome.step == outcome.checkpoint_step
    assert outcome.step > 0


def test_class_pictures_are_drawn_once_however_often_the_job_is_interrupted(jobs: JobBucket) -> None:
    spec = jobs.spec(training={"steps": 60}, checkpoints={"everySteps": 2})
    spec["subjects"][0]["classImages"] = {"generate": 3}
    first = jobs.start(spec)
    wait_for_line(first, "checkpoint_saved")
    first.process.send_signal(signal.SIGTERM)
    assert first.end().reason == "Interrupted"
    second = jobs.start(spec)
    assert second.end().resumed_from_step
    assert ("class_pictures_drawn" in first.log, "class_pictures_drawn" in second.log) == (True, False)
    assert "class_pictures_fetched" in second.log
    assert jobs.keys("out/.checkpoints/") == []


def test_the_trainer_dies_with_its_supervisor(jobs: JobBucket) -> None:
    attempt = jobs.start(jobs.spec(training={"steps": 5000}))
    wait_for_line(attempt, '"stage": "fetch"')
    pid = attempt.process.pid
    (trainer,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(pid, signal.SIGKILL)
    attempt.process.wait()
    while runs(int(trainer)):
        time.sleep(0.05)
    assert not Path(attempt.folder / "message").exists()


def runs(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.parametrize("event", ["job_started", '"stage": "fetch"', '"stage": "train"'])
def test_sigterm_in_any_stage_ends_interrupted_or_with_the_result(jobs: JobBucket, event: str) -> None:
    attempt = jobs.start(jobs.spec(training={"steps": 3}))
    wait_for_line(attempt, event)
    attempt.process.send_signal(signal.SIGTERM)
    outcome = attempt.end()
    assert outcome.reason in ("Interrupted", "Completed")
    assert (outcome.reason == "Completed") == ("out/manifest.json" in jobs.keys("out/"))
