from __future__ import annotations

import dataclasses

import pytest

from devcluster.podstatus import ContainerState, PodFacts, ended, never_found, phase, status, termination_message


def container(exit_code=None, *, started=True, restarts=0):
    state = ContainerState("main", "image", "process://1", restarts=restarts)
    if started:
        state.started_at = "2026-01-01T00:00:00Z"
    if exit_code is not None:
        state.ending = ended(exit_code, "2026-01-01T00:00:00Z", "")
    return state


def facts(*main, policy="Never", init=(), **rest):
    return PodFacts("2026-01-01T00:00:00Z", policy, init, main, **rest)


WAITING, RUNNING, DONE, FAILED = container(started=False), container(), container(0), container(3)


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        (facts(WAITING), "Pending"),
        (facts(RUNNING), "Running"),
        (facts(RUNNING, FAILED), "Running"),
        (facts(DONE, DONE), "Succeeded"),
        (facts(DONE, FAILED), "Failed"),
        (facts(FAILED, policy="OnFailure"), "Running"),
        (facts(DONE, policy="OnFailure"), "Succeeded"),
        (facts(DONE, policy="Always"), "Running"),
        (facts(WAITING, init=[RUNNING]), "Pending"),
        (facts(WAITING, init=[FAILED]), "Failed"),
        (facts(WAITING, init=[FAILED], policy="OnFailure"), "Pending"),
        (facts(DONE, over=True), "Succeeded"),
        (facts(DONE, over=True, stop_reason="DeadlineExceeded"), "Failed"),
        (facts(WAITING, over=True), "Failed"),
    ],
)
def test_phase_follows_from_what_the_containers_did(pod, expected):
    assert phase(pod) == expected


@pytest.mark.parametrize(("exit_code", "reason"), [(0, "Completed"), (1, "Error"), (143, "Error")])
def test_an_ending_has_code_and_reason(exit_code, reason):
    (reported,) = status(facts(container(exit_code)))["containerStatuses"]
    assert reported["state"]["terminated"]["exitCode"] == exit_code
    assert reported["state"]["terminated"]["reason"] == reason


def test_a_running_pod_is_ready_and_an_ended_one_is_not():
    def ready(pod):
        return {one["type"]: one["status"] for one in status(pod)["conditions"]}["Ready"]

    assert ready(facts(RUNNING)) == "True"
    assert ready(facts(DONE)) == "False"


def test_a_condition_keeps_its_time_until_it_changes():
    before = status(facts(RUNNING))["conditions"]
    aged = [one | {"lastTransitionTime": "2020-01-01T00:00:00Z"} for one in before]
    same = status(facts(RUNNING, conditions=aged))["conditions"]
    assert {one["lastTransitionTime"] for one in same} == {"2020-01-01T00:00:00Z"}
    changed = {one["type"]: one for one in status(facts(DONE, conditions=aged))["conditions"]}
    assert changed["Ready"]["lastTransitionTime"] > "2020-01-01T00:00:00Z"
    assert changed["Initialized"]["lastTransitionTime"] == "2020-01-01T00:00:00Z"


def test_a_restart_is_counted_and_the_last_ending_kept():
    again = dataclasses.replace(RUNNING, restarts=1, last_ending=FAILED.ending)
    (reported,) = status(facts(again, policy="Always"))["containerStatuses"]
    assert reported["restartCount"] == 1
    assert reported["lastState"]["terminated"]["exitCode"] == 3


def test_a_container_nobody_found_counts_as_killed():
    assert never_found(WAITING).exit_code == 137


@pytest.mark.parametrize(
    ("written", "logged", "policy", "exit_code", "message"),
    [
        (b"said", b"log", "File", 1, "said"),
        (b"", b"log", "File", 1, ""),
        (b"", b"log", "FallbackToLogsOnError", 1, "log"),
        (b"", b"log", "FallbackToLogsOnError", 0, ""),
        (b"x" * 5000, b"", "File", 0, "x" * 4096),
        (b"", b"a\n" * 100, "FallbackToLogsOnError", 1, "a\n" * 79 + "a"),
        (b"", b"y" * 5000, "FallbackToLogsOnError", 1, "y" * 2048),
    ],
)
def test_the_last_words_are_bounded(tmp_path, written, logged, policy, exit_code, message):
    (tmp_path / "message").write_bytes(written)
    (tmp_path / "log").write_bytes(logged)
    assert termination_message(tmp_path / "message", tmp_path / "log", policy, exit_code) == message


def test_a_removed_message_file_is_no_message(tmp_path):
    assert termination_message(tmp_path / "gone", tmp_path / "gone", "FallbackToLogsOnError", 1) == ""
