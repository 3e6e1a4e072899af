from __future__ import annotations

import io

import pytest

from devcluster.progress import Ticker, duration, line

TRAINING = {"state": "Training", "progress": {"stage": "train", "step": 150, "totalSteps": 600, "loss": "0.12345"}}


@pytest.mark.parametrize(
    ("status", "text"),
    [
        ({}, "Accepted"),
        ({"state": "WaitingForGPU"}, "WaitingForGPU"),
        ({"state": "Training", "progress": {"stage": "train", "step": 0, "totalSteps": 0}}, "Training"),
        (TRAINING, f"Training  {'█' * 6}{'░' * 18}  step 150/600  loss 0.123"),
        (TRAINING | {"state": "Publishing"}, "Publishing"),
        ({"state": "Failed: OutOfMemory", "progress": TRAINING["progress"]}, "Failed: OutOfMemory"),
    ],
)
def test_the_line_tells_what_matters_now(status, text):
    assert line(status) == text


def test_the_time_left_is_told_while_training():
    status = TRAINING | {"progress": TRAINING["progress"] | {"etaSeconds": 75}}
    assert line(status).endswith("1 min 15 s left")


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0 s"), (59, "59 s"), (60, "1 min 0 s"), (3700, "61 min 40 s")])
def test_durations_are_for_people(seconds, text):
    assert duration(seconds) == text


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_one_line_rewritten_in_place():
    terminal = Terminal()
    ticker = Ticker(terminal)
    ticker.show("Fetching")
    ticker.show("Training")
    ticker.end()
    assert terminal.getvalue().count("\n") == 1
    assert terminal.getvalue().count("\r") == 2


def test_a_file_gets_a_line_when_the_state_changes():
    file = io.StringIO()
    ticker = Ticker(file)
    for text in ("Fetching", "Training step 1", "Training step 2", "Sampling"):
        ticker.show(text)
    ticker.end()
    assert [one.split("  ")[-1] for one in file.getvalue().splitlines()] == ["Fetching", "Training step 1", "Sampling"]
