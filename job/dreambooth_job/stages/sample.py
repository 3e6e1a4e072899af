"""Stage 5: the pictures drawn while training, put side by side, and the loss curve."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dreambooth_job.journal import Journal, Sample
from dreambooth_job.report.grid import grid
from dreambooth_job.report.loss_curve import loss_svg
from dreambooth_job.stages.load import Loaded
from dreambooth_job.workspace import Workspace


@dataclass(frozen=True)
class Shown:
    """What there is to look at."""

    samples: tuple[Sample, ...]
    losses: tuple[tuple[int, float], ...]
    best: Sample  # what the model's card shows: the last picture of the prompt that shows the subject best
    prompt: str


def sample(loaded: Loaded, journal: Journal, workspace: Workspace) -> Shown:
    """Writes samples.png (a row per step, a column per prompt), before-after.png and loss.svg."""
    samples, prompts = tuple(journal.samples()), loaded.config.sample_prompts
    last = max(s.step for s in samples)
    grid(samples, prompts).save(workspace.result / "samples.png", optimize=True)
    grid(samples, prompts, (0, last)).save(workspace.result / "before-after.png", optimize=True)
    losses = tuple(journal.losses())
    (workspace.result / "loss.svg").write_text(loss_svg(losses))
    best = next(s for s in samples if s.step == last and s.prompt == 0)
    return Shown(samples, losses, best, prompts[0])


def files_below(folder: Path) -> dict[str, Path]:
    """By path relative to the folder, as they are published."""
    return {str(p.relative_to(folder)): p for p in sorted(folder.rglob("*")) if p.is_file()}
