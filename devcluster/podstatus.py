"""The status a node reports for a pod, from what its containers did. Pure; field by field what a kubelet writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from devcluster.environment import NODE_ADDRESS

Object = dict[str, Any]

MESSAGE_LIMIT_BYTES = 4096
LOG_FALLBACK_BYTES = 2048
LOG_FALLBACK_LINES = 80


@dataclass(frozen=True, slots=True)
class Ending:
    """How one start of a container ended."""

    exit_code: int
    reason: str
    started_at: str
    finished_at: str
    message: str = ""


@dataclass(slots=True)
class ContainerState:
    """Waiting until `started_at` is set, running until `ending` is, then terminated."""

    name: str
    image: str
    container_id: str
    restarts: int = 0
    waiting_reason: str = "ContainerCreating"
    waiting_message: str = ""
    started_at: str | None = None
    ending: Ending | None = None
    last_ending: Ending | None = None

    @property
    def running(self) -> bool:
        return self.started_at is not None and self.ending is None


@dataclass(frozen=True, slots=True)
class PodFacts:
    """Everything the status depends on."""

    start_time: str
    restart_policy: str
    init: Sequence[ContainerState]
    main: Sequence[ContainerState]
    generation: int | None = None
    stop_reason: str = ""  # DeadlineExceeded, Evicted: the node ended the pod
    stop_message: str = ""
    over: bool = False  # nothing will be started any more
    conditions: Sequence[Object] = field(default_factory=tuple)  # as published before


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def ended(exit_code: int, started_at: str, message: str) -> Ending:
    return Ending(exit_code, "Completed" if exit_code == 0 else "Error", started_at, now(), message)


def never_found(state: ContainerState) -> Ending:
    """For a container that was never started, or of which a restarted node knows nothing any more."""
    text = "The container could not be located when the pod was terminated"
    return Ending(137, "ContainerStatusUnknown", state.started_at or now(), now(), text)


def termination_message(file: Path, log: Path, policy: str, exit_code: int) -> str:
    """What the container left in its message file; else the end of its log if that is wanted and it failed."""
    content = _tail(file, MESSAGE_LIMIT_BYTES, from_start=True)
    if content or policy != "FallbackToLogsOnError" or exit_code == 0:
        return content
    return "\n".join(_tail(log, LOG_FALLBACK_BYTES).splitlines()[-LOG_FALLBACK_LINES:])


def _tail(path: Path, limit_bytes: int, *, from_start: bool = False) -> str:
    try:
        with path.open("rb") as file:
            if not from_start:
                file.seek(max(0, path.stat().st_size - limit_bytes))
            return file.read(limit_bytes).decode(errors="replace")
    except OSError:
        return ""


def phase(facts: PodFacts) -> str:
    endings = [state.ending for state in facts.main]
    failed_init = [one for one in facts.init if one.ending and one.ending.exit_code]
    if facts.over:
        done = not facts.stop_reason and all(ending and ending.exit_code == 0 for ending in endings)
        return "Succeeded" if done else "Failed"
    if failed_init and facts.restart_policy == "Never":
        return "Failed"
    if all(endings) and facts.restart_policy != "Always":
        if all(ending.exit_code == 0 for ending in endings if ending):
            return "Succeeded"
        if facts.restart_policy == "Never":
            return "Failed"
    return "Running" if any(one.started_at or one.restarts for one in facts.main) else "Pending"


def status(facts: PodFacts) -> Object:
    """The part of `status` that is the node's; conditions merge with those of others by their type."""
    result: Object = {
        "phase": phase(facts),
        "startTime": facts.start_time,
        "hostIP": NODE_ADDRESS,
        "hostIPs": [{"ip": NODE_ADDRESS}],
        "podIP": NODE_ADDRESS,
        "podIPs": [{"ip": NODE_ADDRESS}],
        "conditions": _conditions(facts),
        "containerStatuses": [_container(state) for state in facts.main],
    }
    if facts.init:
        result["initContainerStatuses"] = [_container(state) for state in facts.init]
    if facts.stop_reason:
        result |= {"reason": facts.stop_reason, "message": facts.stop_message}
    if facts.generation:
        result["observedGeneration"] = facts.generation
    return result


def _conditions(facts: PodFacts) -> list[Object]:
    initialized = all(one.ending and one.ending.exit_code == 0 for one in facts.init)
    ready = not facts.over and all(one.running for one in facts.main)
    finished = phase(facts) == "Succeeded"
    not_ready = {"reason": "PodCompleted"} if finished else {"reason": "ContainersNotReady"}
    wanted = [
        _condition("Initialized", initialized, {"reason": "ContainersNotInitialized"}),
        _condition("ContainersReady", ready, not_ready),
        _condition("Ready", ready, not_ready),
    ]
    before = {one["type"]: one for one in facts.conditions}
    return [one | {"lastTransitionTime": _since(one, before.get(one["type"]))} for one in wanted]


def _since(condition: Object, before: Object | None) -> str:
    if before and before["status"] == condition["status"]:
        return str(before["lastTransitionTime"])
    return now()


def _condition(kind: str, value: bool, otherwise: Object) -> Object:
    return {"type": kind, "status": "True"} if value else {"type": kind, "status": "False"} | otherwise


def _container(state: ContainerState) -> Object:
    return {
        "name": state.name,
        "image": state.image,
        "imageID": state.image,
        "containerID": state.container_id if state.started_at or state.restarts else "",
        "restartCount": state.restarts,
        "ready": state.running,
        "started": state.running,
        "state": _state(state),
        "lastState": {"terminated": _terminated(state.last_ending, state)} if state.last_ending else {},
    }


def _state(state: ContainerState) -> Object:
    if state.ending:
        return {"terminated": _terminated(state.ending, state)}
    if state.started_at:
        return {"running": {"startedAt": state.started_at}}
    message = {"message": state.waiting_message} if state.waiting_message else {}
    return {"waiting": {"reason": state.waiting_reason} | message}


def _terminated(ending: Ending, state: ContainerState) -> Object:
    result: Object = {
        "exitCode": ending.exit_code,
        "reason": ending.reason,
        "startedAt": ending.started_at,
        "finishedAt": ending.finished_at,
        "containerID": state.container_id,
    }
    return result | ({"message": ending.message} if ending.message else {})
