"""What a run has measured and seen, as the tables of docs/e2e.md."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from datetime import UTC, datetime


@dataclass
class Report:
    times: list[tuple[str, str]] = field(default_factory=list)
    endings: list[tuple[str, str, str]] = field(default_factory=list)

    def time(self, what: str, seconds: float) -> None:
        self.times.append((what, f"{seconds:.1f} s"))

    def size(self, what: str, mebibytes: float) -> None:
        self.times.append((what, f"{mebibytes:,.0f} MiB"))

    def ending(self, disturbance: str, outcome: str, seconds: float) -> None:
        self.endings.append((disturbance, outcome, f"{seconds:.0f} s"))

    def __str__(self) -> str:
        machine = f"{os.cpu_count()} cores, no GPU, {platform.system()} {platform.release().partition('-')[0]}"
        head = f"Printed by `make e2e` on {datetime.now(UTC):%Y-%m-%d}, {machine}."
        return "\n\n".join([head, _table(("what", "measured"), self.times), _table(_ENDINGS, self.endings)])


_ENDINGS = ("while it trained", "what came of it", "took")


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
