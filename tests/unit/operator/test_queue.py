"""R8-R10: keys only, one worker per key, back-off, two lanes, earliest wish wins."""

from __future__ import annotations

import threading
import time
from itertools import pairwise

from dreambooth_operator.queue import LAST_RETRY_SECONDS, Queue

A, B, C = ("ns", "a"), ("ns", "b"), ("ns", "c")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_r8_a_key_added_twice_is_given_out_once() -> None:
    queue = Queue()
    queue.add(A)
    queue.add(A)
    queue.add(B)
    assert [queue.get(), queue.get()] == [A, B]
    assert len(queue) == 0


def test_r8_a_key_added_while_a_worker_has_it_runs_again_only_after_that_worker() -> None:
    queue = Queue()
    queue.add(A)
    assert queue.get() == A
    queue.add(A)
    queue.add(B)
    assert queue.get() == B  # A is with its worker
    queue.done(A)
    assert queue.get() == A


def test_r8_many_workers_never_share_a_key() -> None:
    queue, busy, seen, clash = Queue(), set(), [], []
    lock = threading.Lock()

    def work() -> None:
        while (key := queue.get()) is not None:
            with lock:
                clash.extend([key] if key in busy else [])
                busy.add(key)
            with lock:
                busy.discard(key)
                seen.append(key)
            queue.done(key)
            if len(seen) >= 200:
                queue.close()

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    while len(seen) < 200:
        for key in (A, B, C):
            queue.add(key)
        time.sleep(0.0005)
    for worker in workers:
        worker.join(10)
    assert clash == []


def test_r10_what_changed_goes_before_a_resync() -> None:
    queue = Queue()
    queue.add(A, urgent=False)
    queue.add(B, urgent=False)
    queue.add(C)
    queue.add(B)  # has changed while it waited in the slow lane
    assert [queue.get(), queue.get(), queue.get()] == [C, B, A]
    assert len(queue) == 0


def test_r9_backoff_doubles_per_key_to_its_limit_and_is_forgotten_on_success() -> None:
    clock = Clock()
    queue = Queue(clock)
    waits = []
    for _ in range(20):
        waits.append(queue.retry(A))
        clock.now += 1000
    assert waits[0] < 0.1
    assert all(later > earlier * 0.9 for earlier, later in pairwise(waits[:10]))
    assert LAST_RETRY_SECONDS / 2 <= waits[-1] <= LAST_RETRY_SECONDS
    assert queue.retry(B) < 0.1  # another key is not made to wait
    queue.forget(A)
    assert queue.retry(A) < 0.1


def test_r9_all_keys_together_are_held_to_a_budget() -> None:
    queue = Queue(Clock())
    waits = [queue.retry(("ns", str(i))) for i in range(500)]
    assert max(waits) > 5


def test_r9_of_several_times_the_earliest_counts() -> None:
    clock = Clock()
    queue = Queue(clock)
    queue.add_after(A, 60)
    queue.add_after(A, 5)
    queue.add_after(A, 600)
    clock.now += 6
    assert queue.get() == A
    queue.done(A)
    clock.now += 1000
    queue.add(B)
    assert queue.get() == B  # the later wishes have gone with the first
    assert len(queue) == 0


def test_r17_a_time_in_the_past_is_now() -> None:
    queue = Queue(Clock())
    queue.add_after(A, -30)
    assert queue.get() == A


def test_a_closed_queue_lets_waiting_workers_go() -> None:
    queue, got = Queue(), []
    worker = threading.Thread(target=lambda: got.append(queue.get()))
    worker.start()
    queue.close()
    worker.join(5)
    assert got == [None]
