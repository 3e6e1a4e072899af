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

SUPERVISE = """
import os, sys
from functools import partial
from pathlib import Path
from dreambooth_job import __main__ as job
kernel = Path(os.environ["KERNEL"])
job.killed_for_memory, job.limit_bytes = partial(job.killed_for_memory, kernel), partial(job.limit_bytes, kernel)
sys.exit(job.main(sys.argv[1:]))
"""
# Leaves a picture behind, tells the test it is up, then ends as the case says.
TRAINER = """
import os, sys, time
open(os.path.join(os.environ["TMPDIR"], "picture.png"), "wb").write(b"x" * 1000)
KERNEL = os.environ["KERNEL"]
def say(text):
    os.write(int(sys.argv[-1]), text.encode())
{ending}
"""


class Pod:
    def __init__(self, folder: Path, ending: str) -> None:
        self.scratch, self.message = folder / "scratch", folder / "message"
        self.scratch.mkdir()
        counters = folder / "kernel/sys/fs/cgroup"
        counters.mkdir(parents=True)
        (counters / "memory.events").write_text("oom_kill 3\n")
        (counters / "memory.max").write_text(f"{2 << 30}\n")
        self.environment = os.environ | {
            "KERNEL": str(folder / "kernel"),
            ENV_SCRATCH: str(self.scratch),
            ENV_TERMINATION_MESSAGE: str(self.message),
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", SUPERVISE, sys.executable, "-c", TRAINER.format(ending=ending)],
            env=self.environment,
            stderr=subprocess.DEVNULL,
        )

    def wait_for(self, file: str) -> None:
        while not list(self.scratch.rglob(file)):
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
        ("os.kill(os.getpid(), 36)", reasons.INTERNAL_ERROR),
        ("os.kill(os.getpid(), 9)", reasons.KILLED),
        ('say(\'{"reason": "Compl\'); os.kill(os.getpid(), 9)', reasons.KILLED),
    ],
    ids=[
        "completed",
        "refused",
        "exits",
        "ends without a word",
        "aborts",
        "nameless signal",
        "killed",
        "killed in mid-word",
    ],
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
    pod.wait_for("picture.png")
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


def test_trainer_that_the_kernel_killed_for_its_memory_is_not_tried_again(tmp_path: Path) -> None:
    kill = "open(KERNEL + '/sys/fs/cgroup/memory.events', 'w').write('oom_kill 4'); os.kill(os.getpid(), 9)"
    pod = Pod(tmp_path, kill)
    exit_code, outcome = pod.end()
    assert outcome.reason == reasons.MEMORY_LIMIT.name
    assert "limit of 2.0 GiB" in outcome.message
    assert "runtime.resources.memory" in outcome.message
    assert exit_code == reasons.MEMORY_LIMIT.exit_code
    assert list(pod.scratch.iterdir()) == []


def test_scratch_that_cannot_be_written_is_an_ending_like_any_other(tmp_path: Path) -> None:
    pod = Pod(tmp_path, "")
    pod.end()
    (pod.scratch / "home").write_text("in the way")
    again = subprocess.run(pod.process.args, env=pod.environment, capture_output=True)
    assert again.returncode == reasons.INTERNAL_ERROR.exit_code
    assert Outcome.model_validate_json(pod.message.read_text()).reason == reasons.INTERNAL_ERROR.name
    assert list(pod.scratch.iterdir()) == []


def test_last_words_that_cannot_be_written_leave_the_exit_code(tmp_path: Path) -> None:
    (tmp_path / "message").mkdir()
    pod = Pod(tmp_path, 'say(\'{"reason": "InvalidSpec", "message": "steps"}\')')
    assert pod.process.wait() == reasons.INVALID_SPEC.exit_code
    assert list(pod.scratch.iterdir()) == []


PRIVATE = """
from dreambooth_job.process import die_with_parent, keep_memory_private
keep_memory_private(); die_with_parent()
"""


def test_no_core_of_either_process_is_dumped(tmp_path: Path) -> None:
    pod = Pod(tmp_path, PRIVATE + "open(os.environ['TMPDIR'] + '/up', 'w').close(); time.sleep(20)")
    pod.wait_for("up")
    trainer = children_of(pod.process.pid)[0]
    for pid in (pod.process.pid, trainer):
        limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
        assert [line.split()[4:6] for line in limits if line.startswith("Max core")] == [["0", "0"]]
    pod.process.terminate()
    pod.end()


def test_memory_is_closed_to_other_processes_of_the_user() -> None:
    asked = "import ctypes; prctl = ctypes.CDLL(None).prctl; before = prctl(3)"  # PR_GET_DUMPABLE
    program = f"{asked}\n{PRIVATE}\nprint(before, prctl(3))"
    ran = subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": os.pathsep.join(sys.path)},
                         capture_output=True, text=True, check=True)  # fmt: skip
    assert ran.stdout.split() == ["1", "0"]


def test_trainer_never_outlives_its_supervisor(tmp_path: Path) -> None:
    pod = Pod(tmp_path, PRIVATE + "open(os.environ['TMPDIR'] + '/up', 'w').close(); time.sleep(20)")
    pod.wait_for("up")
    trainer = children_of(pod.process.pid)[0]
    pod.process.kill()
    pod.process.wait()
    while runs(trainer):
        time.sleep(0.01)
    assert list(pod.scratch.rglob("picture.png"))  # nobody was left to empty it: it goes with the pod's volume


def runs(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def children_of(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_sigterm_after_the_trainers_end_changes_nothing(tmp_path: Path) -> None:
    pod = Pod(tmp_path, 'say(\'{"reason": "Completed"}\')')
    while pod.process.poll() is None:
        if pod.message.exists():
            pod.process.terminate()
    exit_code, outcome = pod.end()
    assert (exit_code, outcome.reason) == (0, "Completed")
