from __future__ import annotations

import pytest

from dreambooth_operator.settings import SettingError, Settings, from_environment


def test_nothing_set_is_the_default_and_empty_is_unset() -> None:
    assert from_environment({}) == Settings()
    assert from_environment({"DREAMBOOTH_WORKERS": "", "DREAMBOOTH_STORAGE_REGION": ""}) == Settings()


def test_every_setting_is_read() -> None:
    settings = from_environment(
        {
            "DREAMBOOTH_JOB_IMAGE": "r/job:2",
            "DREAMBOOTH_JOB_COMMAND": '["python", "-m", "dreambooth_job"]',
            "DREAMBOOTH_NAMESPACES": "a, b",
            "DREAMBOOTH_STORAGE_ENDPOINT": "http://s3",
            "DREAMBOOTH_STORAGE_REGION": "eu",
            "DREAMBOOTH_STORAGE_CREDENTIALS_SECRET": "s3",
            "DREAMBOOTH_PROGRESS_LISTEN": "[::1]:1",
            "DREAMBOOTH_PROGRESS_ADVERTISED_URL": "http://op:1",
            "DREAMBOOTH_HEALTH_LISTEN": "127.0.0.1:2",
            "DREAMBOOTH_WORKERS": "3",
            "DREAMBOOTH_RESYNC_SECONDS": "30",
            "DREAMBOOTH_LEASE": "dreambooth/operator",
            "DREAMBOOTH_LEASE_SECONDS": "6",
            "DREAMBOOTH_IDENTITY": "operator-x",
            "DREAMBOOTH_POD_IP": "10.0.0.7",
            "DREAMBOOTH_JOB_PULL_SECRETS": "a,b",
            "DREAMBOOTH_JOB_PULL_POLICY": "Always",
        }
    )
    assert settings == Settings(
        "r/job:2", ("python", "-m", "dreambooth_job"), ("a", "b"), "http://s3", "eu", "s3", ("::1", 1), "http://op:1",
        ("127.0.0.1", 2), 3, 30.0, lease=("dreambooth", "operator"), lease_seconds=6.0, identity="operator-x",
        pod_ip="10.0.0.7", job_pull_secrets=("a", "b"), job_pull_policy="Always",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("DREAMBOOTH_JOB_COMMAND", "dreambooth-job"),
        ("DREAMBOOTH_JOB_COMMAND", "[]"),
        ("DREAMBOOTH_JOB_COMMAND", "[1]"),
        ("DREAMBOOTH_PROGRESS_LISTEN", "localhost"),
        ("DREAMBOOTH_WORKERS", "0"),
        ("DREAMBOOTH_RESYNC_SECONDS", "soon"),
        ("DREAMBOOTH_LEASE", "operator"),
        ("DREAMBOOTH_LEASE", "a/b/c"),
        ("DREAMBOOTH_LEASE_SECONDS", "1"),
        ("DREAMBOOTH_JOB_PULL_POLICY", "Sometimes"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str) -> None:
    with pytest.raises(SettingError, match=name):
        from_environment({name: value})
