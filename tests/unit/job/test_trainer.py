"""What happened, as a reason: the job's own errors, those of libraries, and specs that do not parse."""

from __future__ import annotations

import errno
import json

import pytest

from dreambooth_api import reasons
from dreambooth_job.errors import InvalidSpec, JobError
from dreambooth_job.trainer import explain, parse_run
from tests.wrong_manifests import WRONG, Wrong, good_spec

RUN = {"name": "rex", "namespace": "pets", "uid": "u", "runIndex": 0, "generation": 1}


class OutOfMemoryError(RuntimeError):
    """Named as torch's, which is found by its name because torch may not be loaded yet."""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), reasons.SCRATCH_FULL),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), reasons.SCRATCH_FULL),
        (OSError(errno.EIO, "Input/output error"), reasons.INTERNAL_ERROR),
        (OutOfMemoryError("CUDA out of memory"), reasons.OUT_OF_MEMORY),
        (MemoryError(), reasons.KILLED),
        (ZeroDivisionError("rex.jpg"), reasons.INTERNAL_ERROR),
    ],
    ids=["disk full", "quota", "disk broken", "GPU memory", "memory", "our bug"],
)
def test_error_of_a_library_has_a_reason_and_quotes_nothing(error: Exception, reason: reasons.Reason) -> None:
    found, message = explain(error)
    assert found is reason
    assert "rex.jpg" not in message


@pytest.mark.parametrize("wrong", WRONG, ids=lambda w: w.name)
def test_job_refuses_what_the_api_server_would_refuse(wrong: Wrong) -> None:
    with pytest.raises(InvalidSpec, match="does not parse"):
        parse_run(json.dumps(RUN | {"spec": wrong.spec()}))


def test_good_run_parses() -> None:
    assert parse_run(json.dumps(RUN | {"spec": good_spec()})).spec.method.name == "lora"


def test_every_error_class_has_a_reason_of_its_own() -> None:
    def leaves(kind: type[JobError]) -> list[type[JobError]]:
        below = kind.__subclasses__()
        return [leaf for child in below for leaf in leaves(child)] if below else [kind]

    names = {leaf.__name__: leaf.reason.name for leaf in leaves(JobError) if leaf.__module__.endswith(".errors")}
    assert all(name == reason for name, reason in names.items())
