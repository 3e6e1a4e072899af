"""`dreambooth-job doctor` against a real store and stores that refuse (test_careless_store.py has a careless one)."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from dreambooth_api.names import ENV_CREDENTIALS
from dreambooth_job.doctor import examine
from tests.faults.proxy import hang_up, status
from tests.faults.servers import Faulty, FreshBucket

CHECKS = ["image", "put", "conditional put", "get", "list", "delete"]


def marks(faulty: Faulty, prefix: str = "out/") -> dict[str, str]:
    settings = replace(faulty.bucket.settings, endpoint=faulty.proxy.endpoint)
    return {line.check: line.mark for line in examine(f"s3://{faulty.bucket.name}/{prefix}", settings)}


def doctor(bucket: FreshBucket, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": os.pathsep.join(sys.path), ENV_CREDENTIALS: str(bucket.settings.credentials_dir)}
    command = [sys.executable, "-m", "dreambooth_job", "doctor", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_a_good_store_passes_every_check_and_nothing_is_left(fresh_bucket: FreshBucket) -> None:
    endpoint = fresh_bucket.settings.endpoint or ""
    ran = doctor(fresh_bucket, f"s3://{fresh_bucket.name}/out/", "--endpoint", endpoint, "--region", "us-east-1")
    assert (ran.returncode, ran.stderr) == (0, "")
    lines = ran.stdout.splitlines()
    assert [line[:24].split(maxsplit=1) for line in lines] == [["ok", f"{check:<15}"] for check in CHECKS]
    assert "torch 2." in lines[0]
    assert "KeyCount" in (listing := fresh_bucket.client.list_objects_v2(Bucket=fresh_bucket.name))
    assert listing["KeyCount"] == 0


def test_a_bucket_that_does_not_exist_is_named_and_the_exit_code_says_so(fresh_bucket: FreshBucket) -> None:
    ran = doctor(fresh_bucket, "s3://not-there-at-all/out/", "--endpoint", fresh_bucket.settings.endpoint or "")
    assert ran.returncode == 1
    assert "FAILED   put" in ran.stdout
    assert "not-there-at-all" in ran.stdout
    assert "skipped  get" in ran.stdout


@pytest.mark.parametrize(("uri", "endpoint"), [("bucket/out", "http://127.0.0.1:1"), ("s3://bucket/out", "nowhere")])
def test_a_wrong_word_on_the_command_line_is_told(fresh_bucket: FreshBucket, uri: str, endpoint: str) -> None:
    ran = doctor(fresh_bucket, uri, "--endpoint", endpoint)
    assert ran.returncode == 1
    assert "FAILED   settings" in ran.stdout
    assert "Traceback" not in ran.stderr


REFUSALS = {
    "put": {"method": "PUT"},
    "get": {"method": "GET", "key": "out/.doctor-*"},
    "list": {"method": "GET", "query": "list-type"},
    "delete": {"method": "DELETE"},
}


@pytest.mark.parametrize("refused", REFUSALS)
def test_a_missing_right_fails_its_own_check(faulty: Faulty, refused: str) -> None:
    faulty.proxy.add(status(403, "AccessDenied"), count=float("inf"), **REFUSALS[refused])
    found = marks(faulty)
    assert [check for check, mark in found.items() if mark == "FAILED"] == [refused]


def test_a_store_that_is_not_there_is_told_within_the_budget(faulty: Faulty, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dreambooth_job.doctor.BUDGET_SECONDS", 0.2)
    faulty.proxy.add(hang_up, count=float("inf"))
    assert marks(faulty)["put"] == "FAILED"
