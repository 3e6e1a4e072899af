"""Stage 6: the model in the formats that people drop into their tools, proven by reading it back; card and report."""

from __future__ import annotations

import io
import json
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from PIL import Image

from dreambooth_api.run import Run
from dreambooth_job.config import prompt_of
from dreambooth_job.contracts import Learned, LearnedKind
from dreambooth_job.formats import diffusers_folder, proof, single_file, webui_adapter
from dreambooth_job.formats.about import About, preview_name, safe_stem
from dreambooth_job.report.grid import write_preview
from dreambooth_job.report.html import Report, ReportFile, ReportSubject, write_report
from dreambooth_job.stages.fetch import Inputs
from dreambooth_job.stages.load import Loaded
from dreambooth_job.stages.prepare import Prepared
from dreambooth_job.stages.sample import Shown, files_below
from dreambooth_job.storage.digests import sha256_of
from dreambooth_job.workspace import Workspace

THUMBNAIL_PX = 256
USES = {  # by suffix, for the report's list of files
    ".safetensors": "the model: for AUTOMATIC1111, ComfyUI, InvokeAI and diffusers",
    ".json": "beside the model: what web UIs show for it",
    ".png": "beside the model: its picture",
}


@dataclass(frozen=True)
class Exported:
    """What will be published, by path below the attempt's folder, and the resolved settings for the manifest."""

    files: dict[str, Path]
    config: dict[str, Any]


def export(
    run: Run, loaded: Loaded, inputs: Inputs, prepared: Prepared, shown: Shown, seconds: dict[str, float],
    workspace: Workspace,
) -> Exported:  # fmt: skip
    """Raises ResultUnusable when a written file, read back, is not the trained model."""
    folder = workspace.result
    about = _about(run, loaded, inputs, prepared, shown, seconds)
    learned = loaded.state.trainable.learned()
    written = _write_and_prove(learned, loaded, about, folder)
    write_preview(shown.best.path, shown.prompt, folder / preview_name(about))
    config = {field: asdict(value) for field, value in loaded.config.resolved.items()}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    _report(run, loaded, inputs, prepared, shown, seconds, [*written, folder / preview_name(about)], folder)
    return Exported(files_below(folder), config)


def _write_and_prove(learned: Learned, loaded: Loaded, about: About, folder: Path) -> list[Path]:
    if learned.kind is LearnedKind.LORA:
        written = webui_adapter.write(learned, loaded.family, folder, about)
        with torch.no_grad():
            proof.prove_adapter(written[-1], learned, loaded.model, loaded.family)
        return written
    diffusers_folder.write(loaded.model, loaded.family, folder / "diffusers")
    proof.prove_folder(folder / "diffusers", loaded.model, loaded.family)
    written = single_file.write(loaded.model, loaded.family, folder, about)
    proof.prove_single_file(written[-1], folder / "diffusers", loaded.model, loaded.family)
    return written


def _about(
    run: Run, loaded: Loaded, inputs: Inputs, prepared: Prepared, shown: Shown, seconds: dict[str, float]
) -> About:
    spec, training = run.spec, loaded.config.training
    prompts = [prompt_of(subject) for subject in spec.subjects]
    finished = int(time.time())
    return About(
        stem=safe_stem(run.name),
        title=run.name,
        trigger=", ".join(prompts),
        description=f"{', '.join(f'{s.token} is a {s.class_name}' for s in spec.subjects)}. Say: {prompts[0]}",
        base_name=PurePosixPath(spec.base_model.uri.rstrip("/")).name,
        base_sha256=inputs.base_digest,
        resolution_px=prepared.resolution,
        prediction_type=str(loaded.model.scheduler_config.get("prediction_type", "epsilon")),
        steps=loaded.state.step,
        seed=training.seed,
        learning_rate=training.learning_rate,
        text_learning_rate=training.text_learning_rate if loaded.state.trainable.trains_text else None,
        schedule=training.schedule,
        prior_weight=spec.training.prior_weight,
        pictures=prepared.pictures,
        class_pictures=sum(len(subject.classes) for subject in loaded.examples.subjects),
        started_unix=finished - round(sum(seconds.values())),
        finished_unix=finished,
        lineage={"uid": run.uid, "run": str(run.run_index), "base_digest": inputs.base_digest},
        thumbnail_jpeg=_thumbnail(shown.best.path),
    )


def _thumbnail(picture: Path) -> bytes:
    with Image.open(picture) as opened:
        small = opened.convert("RGB").resize((THUMBNAIL_PX, THUMBNAIL_PX), Image.Resampling.LANCZOS)
    data = io.BytesIO()
    small.save(data, "JPEG", quality=85)
    return data.getvalue()


def _report(
    run: Run, loaded: Loaded, inputs: Inputs, prepared: Prepared, shown: Shown, seconds: dict[str, float],
    files: list[Path], folder: Path,
) -> None:  # fmt: skip
    listed = [ReportFile(p.name, p.stat().st_size, sha256_of(p), USES[p.suffix]) for p in files]
    report = Report(
        name=run.name,
        method=run.spec.method.name,
        subjects=[
            ReportSubject(s.spec.token, s.spec.class_name, prompt_of(s.spec), s.pictures) for s in prepared.subjects
        ],
        prompts=loaded.config.sample_prompts,
        samples=shown.samples,
        losses=shown.losses,
        files=listed,
        settings=loaded.config.resolved,
        stage_seconds=seconds,
        provenance={
            "base model, SHA-256": inputs.base_digest,
            "TrainingJob uid": run.uid,
            **{name: version(name) for name in ("torch", "diffusers", "transformers")},
        },
    )
    write_report(report, folder / "report.html")
