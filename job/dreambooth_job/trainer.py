"""The pod's second process: runs the pipeline and turns whatever happens into an Outcome, said through a pipe.

Torch is imported after the first progress report has left, beside the downloads (`libraries.py`).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import structlog
from pydantic import ValidationError

from dreambooth_api.logs import configure
from dreambooth_api.names import ENV_RUN, ENV_SCRATCH
from dreambooth_api.reasons import Reason
from dreambooth_api.run import Run
from dreambooth_api.status import Outcome
from dreambooth_job.errors import InvalidSpec, JobError
from dreambooth_job.explain import explain, where
from dreambooth_job.interruption import Interruption
from dreambooth_job.process import die_with_parent, keep_memory_private
from dreambooth_job.progress import ProgressReporter, sender_from_environment

log = structlog.get_logger()


def main(pipe: int) -> None:
    configure()
    keep_memory_private()
    die_with_parent()
    interruption = Interruption()
    interruption.listen()
    with ProgressReporter(sender_from_environment()) as progress:
        outcome = _attempt(progress, interruption)
        newest = progress.newest
    outcome = outcome.model_copy(
        update={"step": newest.step, "total_steps": newest.total_steps, "checkpoint_step": newest.checkpoint_step}
    )
    with os.fdopen(pipe, "w") as out:
        out.write(outcome.model_dump_json(by_alias=True, exclude_none=True))
    sys.stderr.flush()
    os._exit(0)  # taking torch apart takes seconds of a GPU, and everything has been said


def _attempt(progress: ProgressReporter, interruption: Interruption) -> Outcome:
    try:
        run = parse_run(os.environ[ENV_RUN])
        structlog.contextvars.bind_contextvars(job=f"{run.namespace}/{run.name}", run=run.run_index)
        from dreambooth_job.pipeline import run_pipeline  # brings boto3

        return run_pipeline(run, progress, interruption)
    except JobError as error:
        log.warning("attempt_ended", reason=error.reason.name)  # the message is for the user: it may name a picture
        return _outcome(error.reason, str(error))
    except Exception as error:
        reason, message = explain(error, Path(os.environ[ENV_SCRATCH]))
        log.error("attempt_ended", reason=reason.name, error=type(error).__name__, lines=where(error))
        return _outcome(reason, message)


def parse_run(text: str) -> Run:
    """Raises InvalidSpec naming every wrong field."""
    try:
        return Run.model_validate_json(text)
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors(include_input=False))
        raise InvalidSpec(f"The TrainingJob does not parse: {wrong}. Correct it and apply it again.") from None


def _outcome(reason: Reason, message: str) -> Outcome:
    return Outcome(reason=reason.name, message=message[:1024])


if __name__ == "__main__":
    main(int(sys.argv[1]))
