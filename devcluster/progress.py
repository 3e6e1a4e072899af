"""One line about a TrainingJob's status, and a printer that keeps it in place on a terminal."""

from __future__ import annotations

import time
from typing import Any, TextIO

BAR_CELLS = 24
PLAIN_SECONDS = 10.0  # between lines where there is no terminal to rewrite them on


def line(status: dict[str, Any]) -> str:
    """The state, and while a pod trains the step, the loss and the time left."""
    state, progress = status.get("state") or "Accepted", status.get("progress") or {}
    if state != "Training" or not progress.get("totalSteps"):
        return str(state)
    step, total = progress.get("step", 0), progress["totalSteps"]
    full = BAR_CELLS * step // total
    words = [state, f"{'█' * full}{'░' * (BAR_CELLS - full)}", f"step {step}/{total}"]
    if loss := progress.get("loss"):
        words.append(f"loss {float(loss):.3f}")
    if (left := progress.get("etaSeconds")) is not None:
        words.append(f"{duration(left)} left")
    return "  ".join(words)


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


class Ticker:
    """Shows a changing line: in place on a terminal, elsewhere now and then, or when its first word changes."""

    def __init__(self, output: TextIO) -> None:
        self._output, self._in_place = output, output.isatty()
        self._started = time.monotonic()
        self._shown, self._shown_at = "", 0.0

    def show(self, text: str) -> None:
        now = time.monotonic()
        stamped = f"{now - self._started:4.0f} s  {text}"
        if self._in_place:
            self._output.write(f"\r\x1b[K{stamped}")
        elif text.split()[:1] != self._shown.split()[:1] or (
            text != self._shown and now - self._shown_at >= PLAIN_SECONDS
        ):
            self._output.write(stamped + "\n")
        else:
            return
        self._output.flush()
        self._shown, self._shown_at = text, now

    def end(self) -> None:
        """Leaves the last line and goes to the next one."""
        if self._in_place and self._shown:
            self._output.write("\n")
            self._output.flush()
