"""What a run has to show for itself: metrics.jsonl and sample pictures. It travels in checkpoints, so a resumed run
shows everything from step 0 on.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

METRICS = "metrics.jsonl"
SAMPLES = "samples"


@dataclass(frozen=True)
class Sample:
    step: int
    prompt: int  # number of the prompt, from 0
    path: Path


class Journal:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / SAMPLES).mkdir(parents=True, exist_ok=True)

    @property
    def metrics(self) -> Path:
        return self.folder / METRICS

    def record(self, **values: float | int) -> None:
        with self.metrics.open("a") as file:
            file.write(json.dumps(values) + "\n")

    def losses(self) -> list[tuple[int, float]]:
        """(step, loss), in the order they were written."""
        if not self.metrics.exists():
            return []
        records = [json.loads(line) for line in self.metrics.read_text().splitlines()]
        return [(record["step"], record["loss"]) for record in records]

    def keep(self, step: int, prompt: int, picture: Image.Image) -> None:
        picture.save(self.folder / SAMPLES / f"step-{step:06d}-{prompt}.png")

    def samples(self) -> list[Sample]:
        paths = sorted((self.folder / SAMPLES).glob("step-*.png"))
        return [Sample(int(p.stem.split("-")[1]), int(p.stem.split("-")[2]), p) for p in paths]

    def pack(self, folder: Path) -> None:
        """Copies everything into a checkpoint's folder, flat."""
        for path in [self.metrics, *(s.path for s in self.samples())]:
            if path.exists():
                shutil.copyfile(path, folder / path.name)

    def unpack(self, folder: Path) -> None:
        """Takes what `pack` left; a run that goes on from there writes behind it."""
        for path in folder.iterdir():
            if path.name == METRICS:
                shutil.copyfile(path, self.metrics)
            elif path.suffix == ".png":
                shutil.copyfile(path, self.folder / SAMPLES / path.name)
