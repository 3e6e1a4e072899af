"""Specs that do not parse, and errors and their reasons."""

from __future__ import annotations

import json

import pytest

from dreambooth_job.errors import InvalidSpec, JobError
from dreambooth_job.trainer import parse_run
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
