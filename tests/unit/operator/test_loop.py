"""R1-R6, R22: the reflector against a scripted cluster, and the workers that wait for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dreambooth_operator import loop as loop_module
from dreambooth_operator.cluster import JOBS, Gone, Json, Listing, Resource, Unavailable
from dreambooth_operator.loop import Loop, Reflector
from dreambooth_operator.observe import Child, project_child
from dreambooth_operator.queue import Key, Queue
from dreambooth_operator.store import Store
from tests.unit.operator.builders import child

REX = ("team", "rex")


class Script:
    """A cluster whose lists and watches are scripted; it notes what it was asked."""

    def __init__(self, lists: list[Listing | Exception], watches: list[list[Json | Exception]]) -> None:
        self.lists, self.watches = list(lists), list(watches)
        self.listed = 0
        self.watched_from: list[str] = []
        self.timeouts: list[int] = []
        self.stop = threading.Event()

    def list(self, resource: Resource, namespace: str | None, selector: str) -> Listing:
        self.listed += 1
        answer = self.lists.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def watch(
        self, resource: Resource, namespace: str | None, selector: str, version: str, timeout_seconds: int
    ) -> Iterator[Json]:
        self.watched_from.append(version)
        self.timeouts.append(timeout_seconds)
        for event in self.watches.pop(0) if self.watches else []:
            if isinstance(event, Exception):
                raise event
            yield event
        if not self.watches:
            self.stop.set()


def event(type_: str, version: str, **arguments: Any) -> Json:
    if type_ == "BOOKMARK":
        return {"type": type_, "object": {"kind": "Job", "metadata": {"resourceVersion": version}}}
    return {"type": type_, "object": child(resourceVersion=version, **arguments)}


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Back-off is noted instead of slept."""
    waits: list[float] = []
    monkeypatch.setattr(threading.Event, "wait", lambda self, seconds=None: waits.append(seconds) or self.is_set())
    return waits


def reflect(script: Script) -> tuple[Reflector[Child], Store[Child], list[Key]]:
    store: Store[Child] = Store()
    changed: list[Key] = []
    return Reflector(script, JOBS, None, "", project_child, store, changed.append), store, changed  # type: ignore[arg-type]


def run(script: Script) -> tuple[Reflector[Child], Store[Child], list[Key]]:
    reflector, store, changed = reflect(script)
    reflector.run(script.stop)
    return reflector, store, changed


def test_r1_the_watch_goes_on_from_the_lists_version(no_waiting: list[float]) -> None:
    script = Script([Listing([child()], "77")], [[]])
    _, store, changed = run(script)
    assert script.watched_from == ["77"]
    assert store.get(("team", "rex-r0")) is not None
    assert changed == [REX]


def test_r2_versions_of_events_and_bookmarks_carry_the_next_watch(no_waiting: list[float]) -> None:
    script = Script([Listing([], "77")], [[event("ADDED", "80")], [event("BOOKMARK", "95")], []])
    run(script)
    assert script.watched_from == ["77", "80", "95"]
    assert script.listed == 1


def test_r3_a_compacted_version_lists_again(no_waiting: list[float]) -> None:
    script = Script([Listing([], "77"), Listing([child()], "200")], [[Gone("too old")], []])
    _, store, _ = run(script)
    assert script.watched_from == ["77", "200"]
    assert store.get(("team", "rex-r0")) is not None


def test_r3_any_other_error_reconnects_from_the_last_version(no_waiting: list[float]) -> None:
    script = Script([Listing([], "77")], [[event("ADDED", "80"), Unavailable("reset")], [RuntimeError("bug")], []])
    run(script)
    assert script.watched_from == ["77", "80", "80"]
    assert script.listed == 1


def test_r3_a_list_that_fails_is_tried_again(no_waiting: list[float]) -> None:
    script = Script([Unavailable("down"), Unavailable("down"), Listing([], "5")], [[]])
    reflector, _, _ = run(script)
    assert reflector.synced.is_set()


def test_r3_backoff_grows_with_jitter_to_its_limit_when_every_watch_ends_at_once(no_waiting: list[float]) -> None:
    script = Script([Listing([], "1")], [[] for _ in range(12)])
    run(script)
    assert 0.4 <= no_waiting[0] <= 1.2
    assert all(wait <= loop_module.LAST_BACKOFF_SECONDS * 1.5 for wait in no_waiting)
    assert no_waiting[-1] >= loop_module.LAST_BACKOFF_SECONDS * 0.5


def test_r3_a_watch_that_lived_long_starts_the_backoff_anew(
    no_waiting: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Time:
        now = 0.0

        def monotonic(self) -> float:
            self.now += 100.0  # every look at the clock is a long watch later
            return self.now

    monkeypatch.setattr(loop_module, "time", Time())
    run(Script([Listing([], "1")], [[] for _ in range(5)]))
    assert no_waiting == []


def test_r4_watches_ask_for_different_times_between_five_and_ten_minutes(no_waiting: list[float]) -> None:
    script = Script([Listing([], "1")], [[] for _ in range(20)])
    run(script)
    assert all(300 <= seconds <= 600 for seconds in script.timeouts)
    assert len(set(script.timeouts)) > 1


def test_r4_silence_makes_the_process_unhealthy(monkeypatch: pytest.MonkeyPatch) -> None:
    reflector, _, _ = reflect(Script([], []))
    loop = Loop(Queue(), [reflector], lambda key: None)
    assert loop.healthy()
    reflector.heard -= loop_module.SILENT_SECONDS + 1
    assert not loop.healthy()


def test_r5_what_vanished_while_nobody_watched_is_reconciled(no_waiting: list[float]) -> None:
    script = Script([Listing([child()], "77"), Listing([], "200")], [[Gone("too old")], []])
    _, store, changed = run(script)
    assert store.get(("team", "rex-r0")) is None
    assert changed == [REX, REX]


def test_a_deletion_event_removes_the_object_and_reconciles_its_owner(no_waiting: list[float]) -> None:
    script = Script([Listing([child()], "77")], [[event("DELETED", "90")]])
    _, store, changed = run(script)
    assert store.get(("team", "rex-r0")) is None
    assert changed == [REX, REX]


@pytest.mark.parametrize("poison", [{"metadata": {"name": "x"}}, {}, {"metadata": None}])
def test_r22_an_unreadable_object_does_not_hide_the_others(no_waiting: list[float], poison: Json) -> None:
    script = Script([Listing([poison, child()], "77")], [[]])
    _, store, _ = run(script)
    assert [view.key for view in store.all()] == [("team", "rex-r0")]


def _loop(lists: list[Callable[[], Listing]], reconcile: Callable[[Key], float | None]) -> tuple[Loop, Queue]:
    class Slow(Script):
        def __init__(self, answer: Callable[[], Listing]) -> None:
            super().__init__([], [])
            self.answer = answer

        def list(self, resource: Resource, namespace: str | None, selector: str) -> Listing:
            return self.answer()

        def watch(self, *_: Any) -> Iterator[Json]:
            threading.Event().wait(5)
            return iter(())

    queue = Queue()
    reflectors = [
        Reflector(Slow(answer), JOBS, None, "", project_child, Store(), queue.add)  # type: ignore[arg-type]
        for answer in lists
    ]
    return Loop(queue, reflectors, reconcile), queue


def test_r6_nothing_is_reconciled_before_every_store_is_filled() -> None:
    gate, done = threading.Event(), threading.Event()
    reconciled_early: list[bool] = []

    def late() -> Listing:
        gate.wait(5)
        return Listing([], "1")

    def reconcile(key: Key) -> None:
        reconciled_early.append(not gate.is_set())
        done.set()

    loop, _ = _loop([lambda: Listing([child()], "1"), late], reconcile)
    loop.start(2, list, 1000)
    assert not loop.synced()
    assert not done.wait(0.3)
    gate.set()
    assert done.wait(5)
    assert reconciled_early == [False]
    loop.stop(5)


def test_a_failing_key_is_retried_and_the_others_go_on() -> None:
    tries: dict[Key, int] = {}
    done = threading.Event()

    def reconcile(key: Key) -> None:
        tries[key] = tries.get(key, 0) + 1
        if key == ("team", "poison"):
            raise ValueError("bug")
        if tries.get(("team", "poison"), 0) >= 3:
            done.set()
        queue.add_after(key, 0.01)

    loop, queue = _loop([lambda: Listing([], "1")], reconcile)
    queue.add(("team", "poison"))
    queue.add(REX)
    loop.start(2, list, 1000)
    assert done.wait(10)
    loop.stop(5)


def test_stop_lets_the_running_reconcile_finish() -> None:
    started, release, finished = threading.Event(), threading.Event(), threading.Event()

    def reconcile(key: Key) -> None:
        started.set()
        release.wait(5)
        finished.set()

    loop, queue = _loop([lambda: Listing([], "1")], reconcile)
    queue.add(REX)
    loop.start(1, list, 1000)
    assert started.wait(5)
    stopper = threading.Thread(target=loop.stop, args=(5,))
    stopper.start()
    queue.add(("team", "later"))
    release.set()
    stopper.join(5)
    assert finished.is_set()
    assert queue.get() is None
