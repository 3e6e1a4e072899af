"""Reasons, exit codes and the termination message."""

from __future__ import annotations

import pytest

from dreambooth_api import reasons
from dreambooth_api.names import TERMINATION_MESSAGE_LIMIT_BYTES, attempt_name, child_name
from dreambooth_api.reasons import REASONS, Retry
from dreambooth_api.status import Artifact, Outcome, Purge, Result


def test_every_exit_code_has_one_reason() -> None:
    codes = [r.exit_code for r in REASONS.values() if r.exit_code is not None]
    assert len(codes) == len(set(codes))
    assert all(0 <= code <= 255 for code in codes)


def test_only_completed_leaves_with_zero() -> None:
    assert [r.name for r in REASONS.values() if r.exit_code == 0] == ["Completed"]


@pytest.mark.parametrize("reason", [r for r in REASONS.values() if r.exit_code is not None], ids=lambda r: r.name)
def test_exit_code_turns_back_into_its_reason(reason: reasons.Reason) -> None:
    assert reasons.from_exit_code(reason.exit_code) is reason


def test_unknown_exit_code_is_an_internal_error() -> None:
    assert reasons.from_exit_code(99) is reasons.INTERNAL_ERROR


def test_retry_classes_share_no_exit_code() -> None:
    classes = [set(reasons.exit_codes(retry)) for retry in Retry]
    assert sum(map(len, classes)) == len(set().union(*classes))
    assert 0 not in set().union(*classes)
    assert reasons.exit_codes(Retry.FREE) == [143]


def test_long_outcome_is_cut_to_the_kubelets_limit_and_keeps_its_digest() -> None:
    artifacts = tuple(Artifact(path="x" * 200, size_bytes=1, sha256="a" * 64) for _ in range(20))
    result = Result(uri="s3://results/rex/manifest.json", manifest_sha256="b" * 64, artifacts=artifacts)
    outcome = Outcome(reason="Completed", message="é" * 1024, result=result,
                      purge=Purge(files=9, size_bytes=9, complete=True))  # fmt: skip
    text = outcome.to_termination_message()
    assert len(text.encode()) <= TERMINATION_MESSAGE_LIMIT_BYTES
    read = Outcome.model_validate_json(text)
    assert read.result is not None
    assert read.result.manifest_sha256 == "b" * 64
    assert read.purge is not None


def test_names_fit_a_label_at_the_longest_job_name() -> None:
    assert len(child_name("x" * 48, 999) + "-abcde") <= 63
    assert len(attempt_name("x" * 48, "u" * 36, 999, "p" * 36)) <= 80
