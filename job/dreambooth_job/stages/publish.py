"""Stage 7, and the check before stage 1 that it will be possible: files first, one conditional manifest last."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from dreambooth_api.names import MANIFEST_FILE
from dreambooth_api.run import Run
from dreambooth_api.spec import TrainingJobSpec
from dreambooth_api.status import Artifact, Result
from dreambooth_job.errors import ImagesMissing, StorageNotFound
from dreambooth_job.journal import Journal
from dreambooth_job.stages.fetch import Inputs, OpenStore
from dreambooth_job.storage.manifest import File, Manifest
from dreambooth_job.storage.preflight import Findings, Reading, preflight
from dreambooth_job.storage.publish import Output, publish
from dreambooth_job.storage.s3 import S3Store
from dreambooth_job.storage.uris import parse

if TYPE_CHECKING:  # they bring torch, which the check before stage 1 does not wait for
    from dreambooth_job.stages.export import Exported
    from dreambooth_job.stages.load import Loaded

PREFLIGHT_SECONDS = 300  # of patience with a store that does not answer; a refusal is told at once
SHOWN_ARTIFACTS = 8


def check_access(spec: TrainingJobSpec, stores: OpenStore, store: S3Store, output: Output) -> Findings:
    """Every access of the run, proven before anything is downloaded; raises one error that names all problems."""
    readings = [_reading("baseModel.uri", spec.base_model.uri, stores, StorageNotFound)]
    for field, uri in (("configUri", spec.base_model.config_uri), ("vae", spec.base_model.vae)):
        readings += [_reading(f"baseModel.{field}", uri, stores, StorageNotFound)] if uri else []
    for number, subject in enumerate(spec.subjects):
        readings.append(_reading(f"subjects[{number}].images.uri", subject.images.uri, stores, ImagesMissing))
        if subject.class_images and subject.class_images.uri:
            field = f"subjects[{number}].classImages.uri"
            readings.append(_reading(field, subject.class_images.uri, stores, ImagesMissing))
    return preflight(readings, store, output, budget_seconds=PREFLIGHT_SECONDS)


def _reading(field: str, uri: str, stores: OpenStore, missing: type[StorageNotFound] | type[ImagesMissing]) -> Reading:
    parsed = parse(uri)
    return Reading(field, stores(parsed.bucket), parsed, missing)


def publish_result(
    run: Run, store: S3Store, output: Output, conditional: bool, inputs: Inputs, loaded: Loaded, exported: Exported,
    journal: Journal,
) -> Manifest:  # fmt: skip
    """Everything below the result folder. Returns the manifest that stands, which may be another attempt's."""
    losses = journal.losses()

    def build(files: tuple[File, ...]) -> Manifest:
        return Manifest(
            job_uid=run.uid,
            name=run.name,
            namespace=run.namespace,
            attempt=output.attempt,
            files=files,
            base_model_digest=inputs.base_digest,
            inputs=inputs.read,
            config=exported.config,
            spec_digest=spec_digest(run.spec),
            metrics={"steps": loaded.state.step, "loss": losses[-1][1] if losses else None},
            created_at=datetime.now(UTC),
        )

    return publish(store, replace(output, conditional=conditional), exported.files, build).manifest


def spec_digest(spec: TrainingJobSpec) -> str:
    return hashlib.sha256(spec.model_dump_json(by_alias=True).encode()).hexdigest()


def result_of(spec: TrainingJobSpec, manifest: Manifest) -> Result:
    """What the status shows: the model first, then what a person opens next."""
    shown = sorted(manifest.files, key=lambda file: (_rank(file.path), file.path))[:SHOWN_ARTIFACTS]
    return Result(
        uri=f"{spec.output.uri.rstrip('/')}/{MANIFEST_FILE}",
        manifest_sha256=hashlib.sha256(manifest.to_json()).hexdigest(),
        artifacts=tuple(Artifact(path=f.path, size_bytes=f.size_bytes, sha256=f.sha256) for f in shown),
    )


def _rank(path: str) -> int:
    """Files at the top of the attempt's folder before those below; models, report and pictures before the rest."""
    below = path.split("/", 1)[1]
    kinds = (".safetensors", ".html", ".png")
    if "/" in below:
        return len(kinds) + 1
    return next((rank for rank, kind in enumerate(kinds) if below.endswith(kind)), len(kinds))
