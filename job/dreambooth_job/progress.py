"""How progress leaves the pod: the newest record is pushed to the operator, at a bounded pace, and may be lost.

The other end is the operator's progress endpoint. Nothing depends on a record arriving: how the run ended travels by
exit code and termination message.
"""

from __future__ import annotations

import os
import threading
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from dreambooth_api.names import ENV_PROGRESS_TOKEN, ENV_PROGRESS_URL
from dreambooth_api.status import Progress, Stage

log = structlog.get_logger()

PERIOD_SECONDS = 2.0
TIMEOUT_SECONDS = 5.0

Send = Callable[[Progress], None]


def sender_from_environment() -> Send | None:
    """POSTs to DREAMBOOTH_PROGRESS_URL with the projected token, read anew each time because it rotates."""
    url, token_file = os.environ.get(ENV_PROGRESS_URL), os.environ.get(ENV_PROGRESS_TOKEN)
    if not url or not token_file:
        return None

    def send(progress: Progress) -> None:
        request = urllib.request.Request(
            url,
            data=progress.model_dump_json(by_alias=True, exclude_none=True).encode(),
            headers={"Authorization": f"Bearer {Path(token_file).read_text().strip()}",
                     "Content-Type": "application/json"},
        )  # fmt: skip
        urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS).close()

    return send


class ProgressReporter:
    """Keeps the newest record and sends it from a thread of its own, so that training never waits."""

    def __init__(self, send: Send | None, period_seconds: float = PERIOD_SECONDS) -> None:
        self._send = send
        self._period_seconds = period_seconds
        self._newest = Progress(sequence=0, stage=Stage.FETCH)
        self._changed = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._push, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._changed.set()
        if self._send:
            self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._closing.set()
        self._changed.set()
        if self._send:
            self._thread.join(TIMEOUT_SECONDS)

    @property
    def newest(self) -> Progress:
        return self._newest

    def update(self, **fields: object) -> None:
        """Merges `fields` of Progress into the newest record."""
        self._newest = self._newest.model_copy(update={**fields, "sequence": self._newest.sequence + 1})
        self._changed.set()

    def _push(self) -> None:
        sent, failing = -1, False  # the operator refuses a sequence that does not rise
        while True:
            self._changed.wait()
            self._changed.clear()
            newest = self._newest
            try:
                if newest.sequence > sent and self._send is not None:
                    self._send(newest)
                sent, failing = newest.sequence, False
            except (OSError, HTTPException) as error:  # URLError is an OSError; an answer that is no HTTP is not
                if not failing:
                    log.warning("progress_not_delivered", error=type(error).__name__)
                failing = True
            if self._closing.wait(self._period_seconds) and not self._changed.is_set():
                return
