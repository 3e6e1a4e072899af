"""How long and how the job insists: the retry policy over the table in `failures.py`, and the concurrency it allows.

Full jitter between 0 and 0.2 s x 2^n, capped at 30 s, until the budget is spent without progress worth the name.
Source: AWS Architecture Blog, "Exponential Backoff And Jitter"; the concurrency is TCP's additive increase.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

import structlog

from dreambooth_job.errors import Interrupted
from dreambooth_job.storage.failures import Action, Failure, Kind, classify, read_answer, translate

T = TypeVar("T")
log = structlog.get_logger()
FLOOR_BYTES_PER_SECOND = 64 * 1024  # what counts as progress at all
TOLD_EVERY = 5  # failures of one call: first after some seconds, then every minute or two


class Concurrency:
    """At most `limit` requests at a time; halved when the store throttles, grown back by one each 30 s."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.monotonic, grow_seconds: float = 30.0) -> None:
        self.limit, self._clock, self._grow_seconds = limit, clock, grow_seconds
        self._allowed, self._changed_at, self._active = limit, clock(), 0
        self._condition = threading.Condition()

    @property
    def allowed(self) -> int:
        grown = int((self._clock() - self._changed_at) / self._grow_seconds)
        return min(self.limit, self._allowed + grown)

    def halve(self) -> None:
        """Several parts meet the same storm: within one second it counts once."""
        with self._condition:
            if self._allowed == self.limit or self._clock() - self._changed_at >= 1:
                self._allowed, self._changed_at = max(1, self.allowed // 2), self._clock()

    @contextmanager
    def slot(self, stop: threading.Event) -> Iterator[None]:
        with self._condition:
            while self._active >= self.allowed:
                check(stop)
                self._condition.wait(0.2)
            self._active += 1
        try:
            yield
        finally:
            with self._condition:
                self._active -= 1
                self._condition.notify()


def check(stop: threading.Event) -> None:
    if stop.is_set():
        raise Interrupted("stopped in the middle of a transfer; nothing half-written is visible")


def _nothing() -> None: ...


@dataclass(frozen=True)
class Retrying:
    """The policy; `stop` ends every wait at once with Interrupted."""

    budget_seconds: float = 900.0
    expired_budget_seconds: float = 120.0
    base_seconds: float = 0.2
    cap_seconds: float = 30.0
    concurrency: Concurrency = field(default_factory=lambda: Concurrency(16))
    stop: threading.Event = field(default_factory=threading.Event)
    clock: Callable[[], float] = time.monotonic
    uniform: Callable[[float, float], float] = random.uniform
    sleep: Callable[[float], object] | None = None  # None: sleep on `stop`

    def within(self, budget_seconds: float, stop: threading.Event) -> Retrying:
        return replace(self, budget_seconds=budget_seconds, stop=stop)

    def call(
        self,
        action: Action,
        request: Callable[[], T],
        *,
        renew: Callable[[], None] = _nothing,
        progress: Callable[[], int] = lambda: 0,
    ) -> T:
        """`request()` until it answers. `progress` counts bytes: the budget runs only while they come too slowly."""
        patience = _Patience(self, renew, progress)
        while True:
            check(self.stop)
            try:
                with self.concurrency.slot(self.stop):
                    return request()
            except Exception as error:
                if (failure := classify(error)) is None:
                    raise
                delay = patience.delay_seconds(error, failure)
                if delay is None:
                    raise translate(error, failure, action, patience.waited_seconds) from error
                patience.tell(error, action)
            (self.sleep or self.stop.wait)(delay)


class _Patience:
    """The state of one call: since when nothing was gained, and how often it was tried since."""

    def __init__(self, policy: Retrying, renew: Callable[[], None], progress: Callable[[], int]) -> None:
        self._policy, self._renew, self._progress = policy, renew, progress
        self._budget_seconds, self._renewed = policy.budget_seconds, False
        self._start_over()

    def _start_over(self) -> None:
        self._since, self._mark, self._failures = self._policy.clock(), self._progress(), 0

    @property
    def waited_seconds(self) -> float:
        return self._policy.clock() - self._since

    def tell(self, error: Exception, action: Action) -> None:
        """Once a job seems to stand still, its log says for whom it waits; keys may be names and are left out."""
        if self._failures % TOLD_EVERY == 0:
            answer = read_answer(error)
            said = answer.code if answer else type(error).__name__
            waited = round(self.waited_seconds)
            log.warning("store_waited_for", asked=action.permission, bucket=action.bucket, error=said, seconds=waited)

    def delay_seconds(self, error: Exception, failure: Failure) -> float | None:
        """How long to wait before the next try; None when there is to be none."""
        if failure.kind in {Kind.PERMANENT, Kind.CONDITION_LOST}:
            return None
        if failure.kind is Kind.THROTTLED:
            self._policy.concurrency.halve()
        if failure.kind is Kind.EXPIRED and not self._renewed:
            self._renew_credentials()
        gained = self._progress() - self._mark
        if gained and gained >= FLOOR_BYTES_PER_SECOND * self.waited_seconds:
            self._start_over()
        delay = self._backoff_seconds(error)
        return delay if self.waited_seconds + delay <= self._budget_seconds else None

    def _renew_credentials(self) -> None:
        self._renew()
        self._start_over()
        self._renewed, self._budget_seconds = True, min(self._budget_seconds, self._policy.expired_budget_seconds)

    def _backoff_seconds(self, error: Exception) -> float:
        """Full jitter; not before the moment the store itself names."""
        longest = min(self._policy.cap_seconds, self._policy.base_seconds * 2 ** min(self._failures, 20))
        self._failures += 1
        answer = read_answer(error)
        return max(self._policy.uniform(0.0, longest), answer.retry_after_seconds if answer else 0.0)
