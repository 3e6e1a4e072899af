"""R5, R7, R13: what a relist drops, records that cannot be changed, and not acting on a picture older than a write."""

from __future__ import annotations

import dataclasses

import pytest

from dreambooth_operator.store import EXPECTATION_SECONDS, REMEMBER_GONE_SECONDS, Store
from tests.unit.operator.builders import child_record, pod_record

REX = ("team", "rex")


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_r5_a_relist_names_what_has_vanished_with_its_last_state() -> None:
    store = Store()
    store.replace([child_record(run=0), child_record(run=1)], 50, None)
    gone = store.replace([child_record(run=1)], 60, None)
    assert [view.run_index for view in gone] == [0]
    assert [view.run_index for view in store.owned_by(REX)] == [1]
    assert [view.run_index for view in store.gone_of(REX)] == [0]


def test_r5_a_relist_of_one_namespace_leaves_the_others_alone() -> None:
    store = Store()
    store.put(child_record())
    assert store.replace([], 60, "other") == []
    assert store.get(("team", "rex-r0")) is not None


def test_r7_records_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        child_record().complete = True  # type: ignore[misc]


def test_r13_a_key_is_stale_until_the_watch_shows_the_own_write() -> None:
    store = Store()
    store.put(child_record(resourceVersion="20"))
    store.expect(REX, ("team", "rex-r0"), 25)
    assert store.stale(REX)
    store.put(child_record(resourceVersion="24"))
    assert store.stale(REX)
    store.put(child_record(resourceVersion="25"))
    assert not store.stale(REX)


def test_r13_a_write_that_the_watch_has_shown_already_is_not_waited_for() -> None:
    store = Store()
    store.put(child_record(resourceVersion="25"))
    store.expect(REX, ("team", "rex-r0"), 25)
    assert not store.stale(REX)


@pytest.mark.parametrize("version", [25, 26])
def test_r13_a_deletion_or_a_relist_ends_the_waiting(version: int) -> None:
    removed, relisted = Store(), Store()
    for store in (removed, relisted):
        store.expect(REX, ("team", "rex-r0"), 25)
    removed.remove(child_record(resourceVersion=str(version)))
    relisted.replace([], version, None)
    assert not removed.stale(REX)
    assert not relisted.stale(REX)


def test_r13_a_lost_event_does_not_block_for_ever() -> None:
    clock = Clock()
    store = Store(clock)
    store.expect(REX, ("team", "rex-r0"), 25)
    clock.now += EXPECTATION_SECONDS + 1
    assert not store.stale(REX)


def test_a_deleted_pods_last_words_are_remembered_for_a_while() -> None:
    clock = Clock()
    store = Store(clock)
    store.put(pod_record(0))
    store.remove(pod_record(0, phase="Failed", exit_code=143))
    assert [view.exit_code for view in store.gone_of(REX)] == [143]
    clock.now += REMEMBER_GONE_SECONDS + 1
    store.remove(pod_record(1))
    assert [view.uid for view in store.gone_of(REX)] == ["pod-0-1"]
