"""A pod's life with real processes, and an API server that only listens."""

from __future__ import annotations

import pytest
import urllib3

from devcluster import pods
from devcluster.kube import ApiError
from devcluster.node import NodeSettings
from devcluster.pods import Pod


class Api:
    """Takes status patches; fails the first ones on demand."""

    def __init__(self, *failures):
        self.failures, self.statuses = list(failures), []

    def patch(self, path, body, content_type):
        if self.failures:
            raise self.failures.pop(0)
        self.statuses.append(body["status"])


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a pod of one shell script to its end; returns the last status that the API server has seen."""
    monkeypatch.setattr(pods, "FIRST_BACKOFF_SECONDS", 0.05)
    monkeypatch.setattr(pods, "RETRY_SECONDS", 0.01)
    names = ("authority", "certificate", "key", "serving_certificate", "serving_key")
    settings = NodeSettings("n", str(tmp_path), "https://127.0.0.1:1", **dict.fromkeys(names, ""), path="/usr/bin:/bin")

    def run_pod(script, *failures, **spec):
        api = Api(*failures)
        mounts = [{"name": "work", "mountPath": "/work"}]
        env = [{"name": "WORK", "value": "/work"}]
        main = {"name": "main", "command": ["/bin/sh", "-c", script], "env": env, "volumeMounts": mounts}
        spec = {"containers": [main], "volumes": [{"name": "work", "emptyDir": {}}], **spec}
        Pod(
            {"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}, settings, api, lambda _: None
        ).run()
        assert list((tmp_path / "pods").iterdir()) == []
        return api.statuses[-1] if api.statuses else None

    return run_pod


def test_a_failed_container_is_started_again_where_the_policy_says_so(run):
    status = run('[ -e "$WORK/once" ] && exit 0; : > "$WORK/once"; exit 3', restartPolicy="OnFailure")
    (container,) = status["containerStatuses"]
    assert status["phase"] == "Succeeded"
    assert container["restartCount"] == 1
    assert container["lastState"]["terminated"]["exitCode"] == 3


def test_a_failed_container_stays_failed_where_it_does_not(run):
    status = run("exit 3", restartPolicy="Never")
    assert (status["phase"], status["containerStatuses"][0]["restartCount"]) == ("Failed", 0)


def test_the_end_is_told_to_an_api_server_that_was_away(run):
    away = [
        urllib3.exceptions.ProtocolError("gone"),
        ApiError("PATCH", "/", 500, b""),
        ApiError("PATCH", "/", 429, b""),
    ]
    assert run("exit 0", *away, restartPolicy="Never")["phase"] == "Succeeded"


@pytest.mark.parametrize("code", [404, 409])
def test_a_pod_that_is_gone_is_ended_without_a_word(run, code):
    assert run("sleep 4321", ApiError("PATCH", "/", code, b""), restartPolicy="Never") is None
