"""The eight stages of one attempt, in order; the eighth, clean up, is the first process's (`__main__.py`), so that it
runs in every ending. Read this first.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import structlog

from dreambooth_api import reasons
from dreambooth_api.names import ENV_CREDENTIALS, ENV_POD_UID, ENV_SCRATCH, attempt_name
from dreambooth_api.run import Run
from dreambooth_api.spec import OverwritePolicy
from dreambooth_api.status import Outcome, Result, Stage
from dreambooth_job.interruption import Interruption
from dreambooth_job.journal import Journal
from dreambooth_job.libraries import Libraries
from dreambooth_job.progress import ProgressReporter
from dreambooth_job.stages.fetch import OpenStore, fetch
from dreambooth_job.stages.prepare import prepare
from dreambooth_job.stages.publish import check_access, publish_result, result_of
from dreambooth_job.storage.checkpoints import Checkpoints
from dreambooth_job.storage.client import StorageSettings
from dreambooth_job.storage.publish import Output
from dreambooth_job.storage.s3 import S3Store, open_store
from dreambooth_job.storage.uris import parse
from dreambooth_job.workspace import Workspace

log = structlog.get_logger()


def run_pipeline(run: Run, progress: ProgressReporter, interruption: Interruption) -> Outcome:
    """Raises JobError; whatever happens, nothing is published by halves and scratch is emptied by the caller."""
    spec, workspace, stages = run.spec, Workspace(Path(os.environ[ENV_SCRATCH])), Stages(progress, interruption)
    libraries, stores = Libraries(), _stores(run, interruption)
    output = _output(run)
    store = stores(parse(spec.output.uri).bucket)

    with stages(Stage.FETCH):
        found = check_access(spec, stores, store, output)
        if found.published is not None:  # an attempt before this one was killed after its last write
            return _completed(result_of(spec, found.published), resumed_from=None)
        inputs = fetch(spec, stores, workspace)
    libraries.wait(interruption)
    # What needs torch.
    from dreambooth_job.families import FAMILIES
    from dreambooth_job.stages.class_pictures import Shelf
    from dreambooth_job.stages.export import export
    from dreambooth_job.stages.load import load
    from dreambooth_job.stages.sample import sample
    from dreambooth_job.stages.train import train

    with stages(Stage.PREPARE):
        resolution = spec.training.resolution or FAMILIES["sd1"].resolution_px(inputs.base, inputs.config)
        prepared = prepare(spec, inputs, resolution, workspace)
    with stages(Stage.LOAD):
        shelf = Shelf(store, f"{output.checkpoints}class-images/", workspace.inputs)
        loaded = load(spec, inputs, prepared, shelf, interruption)
    with stages(Stage.TRAIN):
        journal = Journal(workspace.result)
        checkpoints = Checkpoints(store, output.checkpoints, output.attempt, spec.checkpoints.keep_last)
        trained = train(loaded, checkpoints, journal, workspace, progress, interruption)
    with trained.kept():
        with stages(Stage.SAMPLE):
            shown = sample(loaded, journal, workspace)
        with stages(Stage.EXPORT):
            exported = export(run, loaded, inputs, prepared, shown, stages.seconds, workspace)
        with stages(Stage.PUBLISH):
            manifest = publish_result(run, store, output, found.conditional, inputs, loaded, exported, journal)
    return _completed(result_of(spec, manifest), trained.resumed_from_step)


@dataclass
class Stages:
    """Says which stage runs, for how long it ran, and leaves between two stages when asked to stop."""

    progress: ProgressReporter
    interruption: Interruption
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def __call__(self, stage: Stage) -> Iterator[None]:
        self.interruption.check()
        self.progress.update(stage=stage)
        started = time.monotonic()
        yield
        self.seconds[stage] = round(time.monotonic() - started, 2)
        log.info("stage_finished", stage=stage.value, seconds=self.seconds[stage])


def _stores(run: Run, interruption: Interruption) -> OpenStore:
    """One store per bucket, made when it is first asked for; each ends its transfers when the pod must stop."""
    storage, folder = run.spec.storage, os.environ.get(ENV_CREDENTIALS)
    credentials = Path(folder) if folder and Path(folder).is_dir() else None
    settings = StorageSettings(storage.endpoint, storage.region, credentials)

    @cache
    def open_bucket(name: str) -> S3Store:
        return open_store(name, settings, interruption.event)

    return open_bucket


def _output(run: Run) -> Output:
    return Output(
        prefix=parse(run.spec.output.uri).prefix,
        job_uid=run.uid,
        attempt=attempt_name(run.name, run.uid, run.run_index, os.environ[ENV_POD_UID]),
        replace=run.spec.output.overwrite_policy is OverwritePolicy.REPLACE,
    )


def _completed(result: Result, resumed_from: int | None) -> Outcome:
    return Outcome(reason=reasons.COMPLETED.name, message="", result=result, resumed_from_step=resumed_from)
