"""The pod's first process: whatever becomes of the trainer, scratch is emptied and the last words are said."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dreambooth_api import reasons
from dreambooth_api.names import ENV_SCRATCH, ENV_TERMINATION_MESSAGE
from dreambooth_api.status import Outcome
from dreambooth_job.scratch import purge

SUPERVISE = "import sys; from dreambooth_job.__main__ import main; sys.exit(main(sys.argv[1:]))"
# Leaves a picture behind, tells the test it is up, then ends as the case says.
TRAINER = """
import os, sys, time
open(os.path.join(os.environ["TMPDIR"], "picture.png"), "wb").write(b"x" * 1000)
def say(text):
    os.write(int(sys.argv[-1]), text.encode())
{ending}
"""


class Pod:
    def __init__(self, folder: Path, ending: str) -> None:
        self.scratch, self.message = folder / "scratch", folder / "message"
        self.scratch.mkdir()
        self.process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISE, sys.executable, "-c", TRAINER.format(ending=ending)],
            env=os.environ | {ENV_SCRATCH: str(self.scratch), ENV_TERMINATION_MESSAGE: str(self.message),
                              "PYTHONPATH": os.pathsep.join(sys.path)},
            stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def wait_for_picture(self) -> None:
        while not list(self.scratch.rglob("picture.png")):
            time.sleep(0.01)

    def end(self) -> tuple[int, Outcome]:
        return self.process.wait(timeout=20), Outcome.model_validate_json(self.message.read_text())


@pytest.mark.parametrize(
    ("ending", "reason"),
    [
        ("""say('{"reason": "Completed"}')""", reasons.COMPLETED),
        ("""say('{"reason": "ImagesMissing", "message": "none"}'); sys.exit(0)""", reasons.IMAGES_MISSING),
        ("sys.exit(3)", reasons.INTERNAL_ERROR),
        ("raise SystemExit", reasons.INTERNAL_ERROR),
        ("os.abort()", reasons.INTERNAL_ERROR),
        ("os.kill(os.getpid(), 9)", reasons.KILLED),
    ],
    ids=["completed", "refused", "exits", "ends without a word", "aborts", "killed for its memory"],
)
def test_every_ending_empties_scratch_and_has_a_reason(tmp_path: Path, ending: str, reason: reasons.Reason) -> None:
    pod = Pod(tmp_path, ending)
    exit_code, outcome = pod.end()
    assert (outcome.reason, exit_code) == (reason.name, reason.exit_code)
    assert outcome.purge is not None
    assert outcome.purge.complete
    assert outcome.purge.files == 1
    assert outcome.purge.size_bytes == 1000
    assert list(pod.scratch.iterdir()) == []


@pytest.mark.parametrize(
    "ending",
    [
        """import signal
signal.signal(signal.SIGTERM, lambda *_: (say('{"reason": "Interrupted"}'), sys.exit(1)))
time.sleep(20)""",
        "time.sleep(20)",
    ],
    ids=["while training", "before its handler stood"],
)
def test_sigterm_reaches_the_trainer_and_never_ends_in_success(tmp_path: Path, ending: str) -> None:
    pod = Pod(tmp_path, ending)
    pod.wait_for_picture()
    time.sleep(0.2)
    pod.process.send_signal(signal.SIGTERM)
    exit_code, outcome = pod.end()
    assert (exit_code, outcome.reason) == (143, "Interrupted")
    assert list(pod.scratch.iterdir()) == []


def test_purge_counts_files_and_follows_no_link(tmp_path: Path) -> None:
    scratch, outside = tmp_path / "scratch", tmp_path / "outside"
    (scratch / "a/b").mkdir(parents=True)
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (scratch / "a/b/model").write_bytes(b"12345")
    (scratch / "link").symlink_to(outside)
    purged = purge(scratch)
    assert purged.complete
    assert purged.files == 2
    assert (outside / "kept").exists()
