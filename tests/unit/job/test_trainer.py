"""Specs that do not parse, errors and their reasons, and what of an error is written into the log."""

from __future__ import annotations

import json

import pytest

from dreambooth_job.errors import InvalidSpec, JobError
from dreambooth_job.trainer import parse_run, where
from tests.wrong_manifests import WRONG, Wrong, good_spec

RUN = {"name": "rex", "namespace": "pets", "uid": "u", "runIndex": 0, "generation": 1}


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


def test_a_traceback_in_the_log_names_lines_and_no_words_of_the_errors() -> None:
    try:
        try:
            raise FileNotFoundError("rex.jpg")
        except FileNotFoundError as inner:
            raise ValueError("a photo of sks dog") from inner
    except ValueError as error:
        lines = where(error)
    assert "then ValueError" in lines
    assert all("test_trainer.py:" in line for line in lines if not line.startswith("then"))
    assert "rex" not in str(lines)
    assert "sks" not in str(lines)
