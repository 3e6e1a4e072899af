"""Progress leaves the pod when it can, and the job goes on when it cannot."""

from __future__ import annotations

import time
from http.client import BadStatusLine
from pathlib import Path

import pytest

from dreambooth_api.names import ENV_PROGRESS_TOKEN, ENV_PROGRESS_URL
from dreambooth_api.status import Progress, Stage
from dreambooth_job.progress import ProgressReporter, sender_from_environment
from tests.progress_endpoint import ProgressEndpoint


def test_newest_record_is_sent_and_those_between_are_dropped() -> None:
    sent: list[Progress] = []
    with ProgressReporter(sent.append, period_seconds=30) as reporter:
        for step in range(100):
            reporter.update(stage=Stage.TRAIN, step=step)
    assert sent[-1].step == 99
    assert len(sent) <= 3
    assert [p.sequence for p in sent] == sorted({p.sequence for p in sent})


def test_record_that_was_delivered_is_not_sent_again_at_the_end() -> None:
    sent: list[Progress] = []
    with ProgressReporter(sent.append, period_seconds=0.01) as reporter:
        reporter.update(stage=Stage.PUBLISH)
        time.sleep(0.1)
    assert len([p for p in sent if p.stage is Stage.PUBLISH]) == 1


@pytest.mark.parametrize("error", [ConnectionRefusedError(), BadStatusLine("no HTTP")], ids=["away", "something else"])
def test_operator_that_is_not_there_is_asked_again(error: Exception) -> None:
    asked: list[int] = []

    def refuse(progress: Progress) -> None:
        asked.append(progress.sequence)
        raise error

    with ProgressReporter(refuse, period_seconds=0.01) as reporter:
        while len(asked) < 2:
            reporter.update(step=99)
    assert reporter.newest.step == 99


def test_record_is_posted_with_the_token_of_the_moment(
    progress_endpoint: ProgressEndpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = tmp_path / "token"
    monkeypatch.setenv(ENV_PROGRESS_URL, progress_endpoint.url)
    monkeypatch.setenv(ENV_PROGRESS_TOKEN, str(token))
    send = sender_from_environment()
    assert send is not None
    for text in ("first", "rotated"):
        token.write_text(text + "\n")
        send(Progress(sequence=1, stage=Stage.TRAIN, step=5))
    assert progress_endpoint.authorizations == ["Bearer first", "Bearer rotated"]
    assert Progress.model_validate_json(progress_endpoint.bodies[0]).step == 5


def test_job_without_an_operator_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ENV_PROGRESS_URL, raising=False)
    assert sender_from_environment() is None
    with ProgressReporter(None) as reporter:
        reporter.update(step=1)
    assert reporter.newest.step == 1
