"""R18: one replica at a time, by Lease. Time is injected, and every replica's clock shows another time of day."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreambooth_operator.cluster import (
    JOBS,
    LEASES,
    TRAINING_JOBS,
    ClusterError,
    Json,
    NotLeading,
    Resource,
    Unavailable,
)
from dreambooth_operator.election import Election, Fenced, Terms
from tests.unit.operator.builders import training_job
from tests.unit.operator.memory import MemoryCluster

KEY = ("dreambooth", "operator")
TERMS = Terms(15)


def idle() -> None: ...


class World:
    """Replicas of one operator, the API server they share, and the time that passes for all of them."""

    def __init__(self, replicas: int = 2) -> None:
        self.time, self.cluster = 0.0, MemoryCluster()
        self.down = self.reply_lost = False
        self.before_write: Callable[[], None] = idle
        self.before_reply: Callable[[], None] = idle
        self.replicas = [self.replica(number) for number in range(replicas)]

    def replica(self, number: int) -> Election:
        offset = 1e6 * number  # machines that booted at different times
        url = f"http://10.0.0.{number}:8081"
        return Election(self, KEY, f"pod-{number}", url, TERMS, lambda: self.time + offset)

    def turn(self, replica: Election) -> None:
        if not replica.lost:
            with suppress(ClusterError):
                replica.turn()

    def run(self, seconds: float, *replicas: Election) -> None:
        """They take their turns as often as they should."""
        until = self.time + seconds
        while self.time < until:
            for replica in replicas:
                self.turn(replica)
            self.time += TERMS.retry_seconds

    def holders(self) -> list[int]:
        return [number for number, replica in enumerate(self.replicas) if replica.holds()]

    @property
    def spec(self) -> Json:
        spec: Json = self.cluster.get(LEASES, *KEY)["spec"]
        return spec

    # The LeaseStore: the in-memory cluster, which may be out of reach, lose a reply, or be slow.

    def get(self, resource: Resource, namespace: str, name: str) -> Json:
        if self.down:
            raise Unavailable("get leases: network")
        return self.cluster.get(resource, namespace, name)

    def create(self, resource: Resource, namespace: str | None, body: Json) -> Json:
        return self._write(lambda: self.cluster.create(resource, namespace, body))

    def update(self, resource: Resource, namespace: str, name: str, body: Json) -> Json:
        return self._write(lambda: self.cluster.update(resource, namespace, name, body))

    def _write(self, send: Callable[[], Json]) -> Json:
        before, self.before_write = self.before_write, idle
        before()
        if self.down:
            raise Unavailable("update leases: network")
        answer = send()
        before, self.before_reply = self.before_reply, idle
        before()
        if self.reply_lost:
            raise Unavailable("update leases: connection reset")
        return answer


@pytest.fixture
def world() -> World:
    return World()


def test_r18_the_first_one_leads_and_the_other_waits(world: World) -> None:
    one, two = world.replicas
    world.run(60, one, two)
    assert world.holders() == [0]
    assert two.leader_url == "http://10.0.0.0:8081"
    assert (two.ready(), two.lost) == (True, False)
    assert world.spec["leaseTransitions"] == 0
    assert world.spec["leaseDurationSeconds"] == 15


def test_r18_a_silent_leader_has_lost_before_its_successor_begins(world: World) -> None:
    one, two = world.replicas
    world.run(4, one, two)
    silent_since = world.time
    held: list[tuple[bool, bool]] = []
    while not two.holds():
        world.turn(two)
        held.append((one.holds(), two.holds()))
        world.time += 0.5
    assert (True, True) not in held
    assert (False, False) in held  # the margin in which what was sent at the last moment arrives
    assert world.time - silent_since <= TERMS.lease_seconds + TERMS.retry_seconds
    assert world.spec["leaseTransitions"] == 1
    assert one.lost


def test_r18_a_released_lease_is_taken_at_the_next_look(world: World) -> None:
    one, two = world.replicas
    world.run(4, one, two)
    one.release()
    assert world.spec["holderIdentity"] == ""
    assert world.holders() == []
    world.turn(two)
    assert world.holders() == [1]
    assert world.spec["leaseTransitions"] == 1


def test_r18_a_release_counts_although_its_reply_is_lost(world: World) -> None:
    one, two = world.replicas
    world.run(4, one, two)
    world.reply_lost = True
    with pytest.raises(Unavailable):
        one.release()
    world.reply_lost = False
    world.turn(two)
    assert world.holders() == [1]


def test_r18_a_clock_that_leaps_in_the_record_means_nothing(world: World) -> None:
    one, two = world.replicas
    world.run(4, one, two)
    for renew_time in ("1999-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z"):
        lease = world.cluster.get(LEASES, *KEY)
        lease["spec"]["renewTime"] = renew_time
        world.cluster.put(LEASES, lease)
        world.turn(two)
        assert world.holders() == [0]


def test_r18_a_lost_lease_does_not_come_back(world: World) -> None:
    one, two = world.replicas
    world.run(4, one, two)
    world.time += 100
    world.run(20, two)
    lost, events = threading.Event(), list(world.cluster.writes)
    one.run(threading.Event(), elected=pytest.fail, lost=lost.set)
    assert lost.is_set()
    assert world.cluster.writes == events
    assert world.holders() == [1]


def test_r18_an_answer_that_cannot_be_read_does_not_end_the_election(world: World) -> None:
    one, stop, answers = world.replicas[0], threading.Event(), iter([{"spec": "nonsense"}])

    def get(resource: Resource, namespace: str, name: str) -> Json:
        return next(answers, None) or world.cluster.get(resource, namespace, name)

    world.get = get  # type: ignore[method-assign]
    fast = Election(world, KEY, "pod-9", "", Terms(0.01))
    fast.run(stop, elected=stop.set, lost=pytest.fail)
    assert stop.is_set()
    assert not one.holds()


def test_r18_a_leader_that_reads_anothers_name_stops_at_once(world: World) -> None:
    one, _ = world.replicas
    world.run(2, one)
    lease = world.cluster.get(LEASES, *KEY)
    lease["spec"]["holderIdentity"] = "somebody"
    world.cluster.put(LEASES, lease)
    world.turn(one)
    assert one.lost


def test_r18_a_restarted_container_is_not_its_predecessor(world: World) -> None:
    one, _ = world.replicas
    world.run(2, one)
    reborn = world.replica(0)
    world.turn(reborn)
    assert not reborn.holds()


def test_r18_of_two_that_take_a_free_lease_one_gets_it(world: World) -> None:
    one, two = world.replicas
    world.run(2, one)
    one.release()
    world.replicas.append(three := world.replica(2))
    world.before_write = lambda: world.turn(three)
    world.turn(two)
    assert world.holders() == [2]


def test_r18_a_lost_reply_is_no_lost_lease(world: World) -> None:
    one, _ = world.replicas
    world.reply_lost = True
    world.turn(one)
    assert not one.holds()
    world.reply_lost = False
    world.turn(one)
    assert one.holds()


def test_r18_nothing_is_written_through_the_fence_without_the_lease() -> None:
    holds = True
    cluster = MemoryCluster((TRAINING_JOBS, training_job()))
    fenced = Fenced(cluster, lambda: holds)  # type: ignore[arg-type]
    fenced.patch_status(TRAINING_JOBS, "team", "rex", "10", {"state": "New"})
    holds, before = False, list(cluster.writes)
    writes: tuple[Callable[[], Any], ...] = (
        lambda: fenced.create(JOBS, "team", {"metadata": {"name": "rex-r0"}}),
        lambda: fenced.delete(TRAINING_JOBS, "team", "rex", uid="job-uid", version="101", propagation="Background"),
        lambda: fenced.patch_status(TRAINING_JOBS, "team", "rex", "101", {"state": "Old"}),
    )
    for write in writes:
        with pytest.raises(NotLeading, match="another replica"):
            write()
    assert cluster.writes == before
    assert fenced.get(TRAINING_JOBS, "team", "rex")["status"] == {"state": "New"}


def test_other_annotations_and_labels_of_the_lease_stay(world: World) -> None:
    one, _ = world.replicas
    lease = {"metadata": {"namespace": KEY[0], "name": KEY[1], "labels": {"a": "b"}, "annotations": {"c": "d"}}}
    world.cluster.create(LEASES, KEY[0], lease)
    world.turn(one)
    metadata = world.cluster.get(LEASES, *KEY)["metadata"]
    assert metadata["labels"] == {"a": "b"}
    assert metadata["annotations"] == {"c": "d", "dreambooth.dev/progress-url": "http://10.0.0.0:8081"}


def test_r18_time_counts_from_before_the_renewal_was_sent(world: World) -> None:
    one, two = world.replicas
    world.run(2, one, two)

    def stopped() -> None:
        world.turn(two)
        world.time += 12

    world.before_reply = stopped
    world.turn(one)
    assert not one.holds()
    world.time += 4
    world.turn(two)
    assert world.holders() == [1]


def test_the_page_has_the_times_of_the_default_lease() -> None:
    page, terms = (Path(__file__).parents[3] / "docs" / "operator.md").read_text(), Terms()
    for words in (
        f"With a Lease of {terms.lease_seconds:g} s",
        f"every {terms.retry_seconds:g} s; each call gives up after {terms.call_seconds:g} s",
        f"{terms.renew_deadline_seconds:g} s after its last renewal was sent",
        f"or {terms.lease_seconds:g} s after it was seen to change last",
    ):
        assert words in page


REPLICAS = st.integers(0, 2)
STEPS = st.one_of(
    st.tuples(st.just("pass"), st.floats(0, 20)),
    st.tuples(st.just("turn"), REPLICAS),
    st.tuples(st.just("release"), REPLICAS),
    st.tuples(st.just("restart"), REPLICAS),
    st.tuples(st.just("down"), st.booleans()),
    st.tuples(st.just("lose replies"), st.booleans()),
    st.tuples(st.just("stopped before the write"), REPLICAS, REPLICAS, st.floats(0, 40)),
    st.tuples(st.just("stopped before the reply"), REPLICAS, REPLICAS, st.floats(0, 40)),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(STEPS, max_size=40))
def test_r18_never_two_at_a_time_and_soon_one(steps: list[tuple[Any, ...]]) -> None:
    world, epochs = World(3), [-1]

    def look() -> None:
        holders = world.holders()
        assert len(holders) <= 1
        if holders and not world.down:
            epochs.append(world.spec["leaseTransitions"])
            assert epochs[-2] <= epochs[-1]

    def others_act(other: int, seconds: float) -> None:
        world.time += seconds
        world.turn(world.replicas[other])
        look()

    for step in steps:
        match step:
            case ("pass", seconds):
                world.time += seconds
            case ("turn", number):
                world.turn(world.replicas[number])
            case ("release", number):
                with suppress(ClusterError):
                    world.replicas[number].release()
            case ("restart", number):
                world.replicas[number] = world.replica(number)
            case ("down", down):
                world.down = down
            case ("lose replies", lost):
                world.reply_lost = lost
            case (when, number, other, seconds):
                act = partial(others_act, other, seconds)
                world.before_write, world.before_reply = (act, idle) if when.endswith("write") else (idle, act)
                world.turn(world.replicas[number])
                world.before_write = world.before_reply = idle
        look()
    world.down = world.reply_lost = False
    world.replicas = [r if not r.lost else world.replica(n) for n, r in enumerate(world.replicas)]
    world.run(TERMS.lease_seconds + 2 * TERMS.retry_seconds, *world.replicas)
    look()
    assert len(world.holders()) == 1
