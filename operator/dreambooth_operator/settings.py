"""The operator's settings: read once from the environment, then passed on as one frozen record."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

from dreambooth_api import names

Address = tuple[str, int]

PULL_POLICIES = ("Always", "IfNotPresent", "Never")


class SettingError(Exception):
    """A variable cannot be used; the message names it and says what was expected."""


@dataclass(frozen=True, slots=True)
class Settings:
    job_image: str = "dreambooth-job:0.1.0"
    job_command: tuple[str, ...] = (names.COMMAND,)
    namespaces: tuple[str, ...] = ()  # empty: all
    storage_endpoint: str | None = None
    storage_region: str | None = None
    storage_credentials_secret: str | None = None
    progress_listen: Address = ("0.0.0.0", 8081)
    progress_url: str | None = None  # how pods reach progress_listen; None: they push no progress
    health_listen: Address = ("0.0.0.0", 8080)
    workers: int = 8
    resync_seconds: float = 600.0
    stop_grace_seconds: float = 20.0
    lease: tuple[str, str] | None = None  # namespace, name; None: this is the only replica
    lease_seconds: float = 15.0
    identity: str | None = None  # the replica's name in the Lease
    pod_ip: str | None = None  # where other replicas reach progress_listen
    job_pull_secrets: tuple[str, ...] = ()
    job_pull_policy: str = "IfNotPresent"


def from_environment(env: Mapping[str, str] = os.environ) -> Settings:
    """Raises SettingError. An empty variable counts as unset."""
    given = {name: value for name, value in env.items() if value}
    default = Settings()
    return Settings(
        job_image=given.get("DREAMBOOTH_JOB_IMAGE", default.job_image),
        job_command=_command(given.get("DREAMBOOTH_JOB_COMMAND")) or default.job_command,
        namespaces=_words(given, "DREAMBOOTH_NAMESPACES"),
        storage_endpoint=given.get("DREAMBOOTH_STORAGE_ENDPOINT"),
        storage_region=given.get("DREAMBOOTH_STORAGE_REGION"),
        storage_credentials_secret=given.get("DREAMBOOTH_STORAGE_CREDENTIALS_SECRET"),
        progress_listen=_address(given, "DREAMBOOTH_PROGRESS_LISTEN", default.progress_listen),
        progress_url=given.get("DREAMBOOTH_PROGRESS_ADVERTISED_URL"),
        health_listen=_address(given, "DREAMBOOTH_HEALTH_LISTEN", default.health_listen),
        workers=int(_number(given, "DREAMBOOTH_WORKERS", default.workers, at_least=1)),
        resync_seconds=_number(given, "DREAMBOOTH_RESYNC_SECONDS", default.resync_seconds, at_least=1),
        lease=_lease(given.get("DREAMBOOTH_LEASE")),
        lease_seconds=_number(given, "DREAMBOOTH_LEASE_SECONDS", default.lease_seconds, at_least=3),
        identity=given.get("DREAMBOOTH_IDENTITY"),
        pod_ip=given.get("DREAMBOOTH_POD_IP"),
        job_pull_secrets=_words(given, "DREAMBOOTH_JOB_PULL_SECRETS"),
        job_pull_policy=_choice(given, "DREAMBOOTH_JOB_PULL_POLICY", default.job_pull_policy, PULL_POLICIES),
    )


def _words(given: Mapping[str, str], name: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in given.get(name, "").split(",") if word.strip())


def _choice(given: Mapping[str, str], name: str, default: str, choices: tuple[str, ...]) -> str:
    choice = given.get(name, default)
    if choice not in choices:
        raise SettingError(f"{name} is {choice!r}; expected one of {', '.join(choices)}")
    return choice


def _lease(text: str | None) -> tuple[str, str] | None:
    if text is None:
        return None
    namespace, _, name = text.partition("/")
    if not namespace or not name or "/" in name:
        raise SettingError(f"DREAMBOOTH_LEASE is {text!r}; expected <namespace>/<name>")
    return namespace, name


def _command(text: str | None) -> tuple[str, ...]:
    if text is None:
        return ()
    try:
        words = json.loads(text)
    except ValueError:
        words = None
    if not isinstance(words, list) or not words or not all(isinstance(word, str) for word in words):
        raise SettingError(f'DREAMBOOTH_JOB_COMMAND is {text!r}; expected a JSON list, e.g. ["dreambooth-job"]')
    return tuple(words)


def _address(given: Mapping[str, str], name: str, default: Address) -> Address:
    text = given.get(name)
    if text is None:
        return default
    host, _, port = text.rpartition(":")
    if not port.isdigit():
        raise SettingError(f"{name} is {text!r}; expected host:port, e.g. 0.0.0.0:8080")
    return host.strip("[]"), int(port)


def _number(given: Mapping[str, str], name: str, default: float, *, at_least: float) -> float:
    text = given.get(name, str(default))
    try:
        number = float(text)
    except ValueError:
        number = float("-inf")
    if number < at_least:
        raise SettingError(f"{name} is {text!r}; expected a number of at least {at_least:g}")
    return number
