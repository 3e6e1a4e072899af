"""The operator as a process, killed with SIGKILL again and again while TrainingJobs go their ways in real pods."""

from __future__ import annotations

import random
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from devcluster.cluster import Cluster
from tests.integration.operator_kit import Kit, eventually

PATIENCE_SECONDS = 180


@pytest.fixture
def kit(cluster: Cluster, namespace: str, tmp_path: Path) -> Iterator[Kit]:
    kit = Kit(cluster, namespace, tmp_path)
    yield kit
    kit.stop()


class Killer:
    """Starts the operator, kills it seconds after it got ready, and so on until it is asked to leave it alone."""

    def __init__(self, kit: Kit) -> None:
        self.kills, self._kit, self._enough = 0, kit, threading.Event()
        self._thread = threading.Thread(target=self._kill)
        self._thread.start()

    def again(self) -> None:
        """Returns after the next kill."""
        before = self.kills
        eventually("another kill", lambda: self.kills > before, PATIENCE_SECONDS)

    def leave_alone(self) -> None:
        self._enough.set()
        self._thread.join()

    def _kill(self) -> None:
        dice = random.Random(7)
        while True:
            process = self._kit.start_process()
            eventually("the operator is ready", self._kit.ready, PATIENCE_SECONDS)
            if self._enough.wait(dice.uniform(0, 2)):
                return
            self._stop(process)
            self.kills += 1

    def _stop(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_nothing_is_lost_or_doubled_under_kill_minus_nine(kit: Kit, capsys: pytest.CaptureFixture[str]) -> None:
    killer = Killer(kit)
    try:
        names = ("good", "bad", "paused")
        for name in names:
            kit.apply(name)
        killer.again()
        for name in names:
            eventually(
                f"{name} is seen",
                lambda name=name: kit.status(name).get("attempts", {}).get("started"),
                PATIENCE_SECONDS,
            )
        killer.again()
        kit.end_with(0, "good")
        kit.end_with(70, "bad")
        kit.change_policy("paused", suspend=True)
        eventually("is suspended", lambda: kit.state("paused") == "Suspended", PATIENCE_SECONDS)
        killer.again()
        kit.end_with(0, "paused")
        kit.change_policy("paused", suspend=False)
        for name in names:
            eventually(
                f"{name} ends", lambda name=name: kit.condition("Finished", name)[:4] == "True", PATIENCE_SECONDS
            )
    finally:
        killer.leave_alone()
    with capsys.disabled():
        print(f"\nkilled {killer.kills} times")
    assert killer.kills >= 3
    states = {name: kit.state(name) for name in names}
    assert states == {"good": "Succeeded", "bad": "Failed: StorageDenied", "paused": "Succeeded"}
    attempts = {name: kit.status(name)["attempts"] for name in names}
    once = {"started": 1, "failed": 0, "interrupted": 0}
    assert attempts == {"good": once, "bad": once | {"failed": 1}, "paused": once | {"started": 2}}
    assert sorted(kit.jobs()) == ["bad-r0", "good-r0", "paused-r1"]
    assert len(kit.pods()) == 3
    assert len(kit.events()) == len(set(kit.events_with_job()))
