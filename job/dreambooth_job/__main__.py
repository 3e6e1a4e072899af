"""The pod's first process: starts the trainer, passes SIGTERM on, empties the scratch folder, says the last words.

It imports nothing heavy, so the first log line and the first report leave before torch is loaded; and it outlives
the trainer, so the pictures go even when the trainer crashes or is killed for its memory.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import structlog
from pydantic import ValidationError

from dreambooth_api import reasons
from dreambooth_api.logs import configure
from dreambooth_api.names import ENV_SCRATCH, ENV_TERMINATION_MESSAGE, TERMINATION_MESSAGE_LIMIT_BYTES
from dreambooth_api.reasons import Reason
from dreambooth_api.status import Outcome
from dreambooth_job.explain import explain, where
from dreambooth_job.memory import killed_for_memory, limit_bytes
from dreambooth_job.process import keep_memory_private
from dreambooth_job.scratch import purge, working_environment

log = structlog.get_logger()

TRAINER = (sys.executable, "-m", "dreambooth_job.trainer")


def main(trainer: Sequence[str] = TRAINER) -> int:
    """Returns the reason's exit code. `trainer` gets the number of the pipe it speaks through as its last argument."""
    if sys.argv[1:2] == ["doctor"]:
        from dreambooth_job import doctor

        return doctor.main(sys.argv[2:])
    configure()
    keep_memory_private()
    scratch = Path(os.environ[ENV_SCRATCH])
    log.info("job_started", python=sys.version.split()[0])
    started, killed_before = time.monotonic(), killed_for_memory()
    try:
        exit_code, said = _run_trainer(trainer, scratch)
        outcome = said or _unexplained(exit_code, killed_for_memory() > killed_before)
    except Exception as error:  # scratch is full or cannot be written; whatever it is, scratch must be emptied
        log.error("supervisor_failed", error=type(error).__name__, lines=where(error))
        outcome = _outcome(*explain(error, scratch))
    outcome = outcome.model_copy(update={"purge": purge(scratch)})
    log.info("job_finished", reason=outcome.reason, seconds=round(time.monotonic() - started, 1))
    _say(outcome)
    code = reasons.REASONS[outcome.reason].exit_code
    assert code is not None, "a reason of the operator's own is no word of the job"
    return code


def _run_trainer(command: Sequence[str], scratch: Path) -> tuple[int, Outcome | None]:
    """Runs the trainer to its end; returns its exit code and what it said through the pipe."""
    asked: list[int] = []
    started: list[subprocess.Popen[bytes]] = []

    def forward(number: int, _frame: object) -> None:
        asked.append(number)
        for process in started:
            process.terminate()

    # Before the trainer starts: the first process of a container ignores a signal it has no handler for.
    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, forward)
    read_end, write_end = os.pipe()
    trainer = subprocess.Popen(
        [*command, str(write_end)],
        pass_fds=[write_end],
        env=os.environ | working_environment(scratch),
        stdin=subprocess.DEVNULL,
    )
    started.append(trainer)
    if asked:
        trainer.terminate()
    os.close(write_end)
    with os.fdopen(read_end, "rb") as pipe:
        text = pipe.read()  # ends when the trainer ends, whichever way
    exit_code = trainer.wait()
    # What is left takes a moment and must be done; and Python takes its own handlers away before it exits.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    return exit_code, _words(text)


def _words(text: bytes) -> Outcome | None:
    """None when the trainer said nothing, or was killed in the middle of a word."""
    try:
        return Outcome.model_validate_json(text)
    except ValidationError:
        return None


def _unexplained(exit_code: int, for_memory: bool) -> Outcome:
    """The trainer ended without a word: killed, or crashed in native code."""
    if for_memory:
        return _outcome(reasons.MEMORY_LIMIT, _too_small(limit_bytes()))
    if exit_code == -signal.SIGTERM:  # before its handler stood
        return _outcome(reasons.INTERRUPTED, "The pod was asked to stop while the trainer was starting.")
    if exit_code == -signal.SIGKILL:
        return _outcome(
            reasons.KILLED, "The trainer was killed from outside, and not for its memory; look at the node."
        )
    cause = f"signal {-exit_code} ({signal.strsignal(-exit_code)})" if exit_code < 0 else f"exit code {exit_code}"
    return _outcome(reasons.INTERNAL_ERROR, f"The trainer ended with {cause} and no message; see the pod's log.")


def _too_small(limit: int | None) -> str:
    had = f"its limit of {limit / 2**30:.1f} GiB" if limit else "the node's memory"
    return (
        f"The kernel killed the trainer because {had} was used up. Raise runtime.resources.memory; with "
        "runtime.scratch.medium: Memory the working data counts too."
    )


def _outcome(reason: Reason, message: str) -> Outcome:
    return Outcome(reason=reason.name, message=message)


def _say(outcome: Outcome) -> None:
    text = outcome.to_termination_message()
    assert len(text.encode()) <= TERMINATION_MESSAGE_LIMIT_BYTES
    if path := os.environ.get(ENV_TERMINATION_MESSAGE):
        try:
            Path(path).write_text(text)
        except OSError as error:  # it lies on the node's disk, which may be full; the exit code tells the reason too
            log.error("last_words_lost", error=error.strerror)


if __name__ == "__main__":
    sys.exit(main())
