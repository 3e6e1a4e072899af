"""Stage 4: from the newest checkpoint to the last step, with pictures, progress and checkpoints on the way."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from dreambooth_job.errors import Interrupted, StorageError
from dreambooth_job.interruption import Interruption
from dreambooth_job.journal import Journal
from dreambooth_job.progress import ProgressReporter
from dreambooth_job.stages.load import Loaded, all_examples
from dreambooth_job.storage.checkpoints import BackgroundSaver, Checkpoints
from dreambooth_job.training import checkpoints as state_files
from dreambooth_job.training import loop
from dreambooth_job.training.loop import Step
from dreambooth_job.training.sampling import draw
from dreambooth_job.workspace import Workspace

log = structlog.get_logger()

LAST_CHECKPOINT_SECONDS = 90  # of the pod's 120 seconds between SIGTERM and SIGKILL
SMOOTHING = 0.8  # of the shown loss: one step's is noise


@dataclass(frozen=True)
class Trained:
    """A finished training, and how to keep it when the pod must go before the result stands."""

    resumed_from_step: int | None
    save: Callable[[], None]

    @contextmanager
    def kept(self) -> Iterator[None]:
        """An interruption inside the block leaves a checkpoint of the last step: nothing is trained twice."""
        try:
            yield
        except Interrupted:
            self.save()
            raise


def train(
    loaded: Loaded, checkpoints: Checkpoints, journal: Journal, workspace: Workspace, progress: ProgressReporter,
    interruption: Interruption,
) -> Trained:  # fmt: skip
    """Raises Interrupted after a last checkpoint, Diverged."""
    run = _Run(loaded, checkpoints, journal, workspace, progress)
    trained = Trained(run.resume(), run.save_last)
    if trained.resumed_from_step is None:
        run.draw_samples()
    with trained.kept():
        loop.train(
            loaded.family, loaded.model, loaded.state, all_examples(loaded.examples), loaded.examples.batch,
            loaded.config.training, on_step=run.after_step, stop=interruption,
        )  # fmt: skip
        interruption.check()
        run.finish()
    return trained


class _Run:
    """What happens around the loop's steps."""

    def __init__(
        self, loaded: Loaded, checkpoints: Checkpoints, journal: Journal, workspace: Workspace,
        progress: ProgressReporter,
    ) -> None:  # fmt: skip
        self._loaded, self._config, self._state = loaded, loaded.config, loaded.state
        self._checkpoints, self._journal, self._workspace = checkpoints, journal, workspace
        self._progress = progress
        self._saver = BackgroundSaver(checkpoints, on_saved=self._saved)
        self._packed_at, self._saved_step = time.monotonic(), 0
        self._loss: float | None = None
        self._seconds: float | None = None

    def resume(self) -> int | None:
        found = self._checkpoints.newest_complete(self._workspace.checkpoint)
        if found is None:
            return None
        folder = next(iter(found.files.values())).parent
        state_files.restore(folder, self._state)
        self._journal.unpack(folder)
        shutil.rmtree(folder)
        self._saved_step = self._state.step
        self._progress.update(step=self._state.step, checkpoint_step=self._state.step)
        log.info("resumed", step=self._state.step)
        return self._state.step

    def after_step(self, step: Step) -> None:
        self._seconds = _smooth(self._seconds, step.seconds)
        if step.loss is not None:
            self._loss = _smooth(self._loss, step.loss)
            self._journal.record(step=step.number, loss=step.loss, learning_rate=step.learning_rate)
        self._report()
        if step.number in self._config.sample_steps:
            self.draw_samples()
        if self._due() and step.number < self._config.training.steps:
            self._save()

    def draw_samples(self) -> None:
        """The same noise for a prompt at every step, so that two steps differ by what was learned alone."""
        prompts, config = self._config.sample_prompts, self._config
        seeds = [config.training.seed + number for number in range(len(prompts))]
        pictures = draw(
            self._loaded.family, self._loaded.model, prompts, seeds,
            size_px=config.resolution, guidance=config.guidance, precision_name=config.training.precision,
        )  # fmt: skip
        for number, picture in enumerate(pictures):
            self._journal.keep(self._state.step, number, picture)

    def save_last(self) -> None:
        """Before the pod goes: whatever was being saved is finished first, then this step's state."""
        deadline = time.monotonic() + LAST_CHECKPOINT_SECONDS
        if not self._saver.wait(LAST_CHECKPOINT_SECONDS) or self._state.step == self._saved_step:
            return
        store = self._checkpoints.store.within(max(1.0, deadline - time.monotonic()), deaf=True)
        folder = self._pack()
        try:
            self._checkpoints.save(self._state.step, {p.name: p for p in folder.iterdir()}, store)
            self._saved(self._state.step)
        except StorageError as error:  # the pod goes all the same, and the checkpoint before this one stands
            log.warning("last_checkpoint_failed", reason=error.reason.name)

    def finish(self) -> None:
        """Raises what the last background checkpoint failed with; Interrupted, when the pod was asked to stop."""
        self._saver.wait(LAST_CHECKPOINT_SECONDS)
        self._saver.raise_failure()

    def _due(self) -> bool:
        steps, seconds = self._config.checkpoint_every_steps, self._config.checkpoint_every_seconds
        return bool(
            (steps and self._state.step % steps == 0) or (seconds and time.monotonic() - self._packed_at >= seconds)
        )

    def _save(self) -> None:
        """The state is written at once and uploaded while training goes on."""
        if self._saver.idle:
            folder = self._pack()
            self._saver.start(self._state.step, {p.name: p for p in folder.iterdir()})

    def _saved(self, step: int) -> None:
        self._saved_step = step
        self._progress.update(checkpoint_step=step)
        log.info("checkpoint_saved", step=step)

    def _pack(self) -> Path:
        self._packed_at = time.monotonic()
        for old in self._workspace.saving.iterdir():
            shutil.rmtree(old)
        folder = self._workspace.saving / f"{self._state.step:08d}"
        state_files.save(folder, self._state)
        self._journal.pack(folder)
        return folder

    def _report(self) -> None:
        left = self._config.training.steps - self._state.step
        seconds = self._seconds or 0.0
        self._progress.update(
            step=self._state.step, total_steps=self._config.training.steps, loss=self._loss,
            steps_per_second=round(1 / seconds, 3) if seconds else None, eta_seconds=round(left * seconds),
        )  # fmt: skip


def _smooth(before: float | None, now: float) -> float:
    return now if before is None else SMOOTHING * before + (1 - SMOOTHING) * now
