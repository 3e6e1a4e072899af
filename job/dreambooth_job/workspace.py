"""Where things lie in the scratch folder. Everything below `result` is published; nothing else leaves the pod."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Workspace:
    root: Path

    @property
    def inputs(self) -> Path:
        """Pictures, captions and archives as they were fetched, under generated names."""
        return self._made("inputs")

    @property
    def base(self) -> Path:
        return self._made("base")

    @property
    def checkpoint(self) -> Path:
        """The checkpoint being resumed from."""
        return self._made("checkpoint")

    @property
    def saving(self) -> Path:
        """Checkpoints being uploaded."""
        return self._made("saving")

    @property
    def result(self) -> Path:
        return self._made("result")

    def _made(self, name: str) -> Path:
        folder = self.root / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder
