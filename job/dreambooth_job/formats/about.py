"""What a model file says of itself: its metadata, its name, and the sidecar that web UIs read beside it.

Keys and readers: docs/results.md. Captions and picture names are in none of them.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

# What A1111 takes for something else, and names that other files of a result have.
_RESERVED_STEMS = ("none", "addams", "config", "samples", "before-after")
_LONGEST_STEM = 100


@dataclass(frozen=True)
class About:
    """The facts of one run that go into its files; every one of them is public where the file is."""

    stem: str  # the file's name without suffix, see `safe_stem`
    title: str
    trigger: str  # what calls the subject, e.g. "a photo of sks dog"
    description: str
    base_name: str
    base_sha256: str | None
    resolution_px: int
    prediction_type: str  # "epsilon" or "v_prediction"
    steps: int
    seed: int
    learning_rate: float
    text_learning_rate: float | None  # None: the text encoder was not trained
    schedule: str
    prior_weight: float
    pictures: int
    class_pictures: int
    started_unix: int  # seconds
    finished_unix: int
    lineage: Mapping[str, str] = field(
        default_factory=dict
    )  # uid, run, dataset_digest, ...: written as dreambooth.<key>
    thumbnail_jpeg: bytes | None = None  # 256 x 256


def safe_stem(name: str) -> str:
    """A stem of [a-z0-9-]: A1111 splits at dots, and both UIs use it as a name."""
    stem = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_LONGEST_STEM].strip("-") or "model"
    return f"{stem}-model" if stem in _RESERVED_STEMS else stem


def checkpoint_metadata(about: About) -> dict[str, str]:
    """For a whole checkpoint (Stability's ModelSpec 1.0.1)."""
    return _modelspec(about, "stable-diffusion-v1") | _lineage(about)


def adapter_metadata(about: About, rank: int, alpha: float, conv: tuple[int, float] | None) -> dict[str, str]:
    """For an adapter file: kohya's `ss_*` keys, which A1111 and its like show and sort by, and ModelSpec."""
    arguments = {"conv_dim": str(conv[0]), "conv_alpha": str(conv[1])} if conv else {}
    kohya = {
        "ss_base_model_version": "sd_v1",  # without it A1111 guesses
        "ss_v2": "False",
        "ss_output_name": about.stem,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(rank),
        "ss_network_alpha": str(alpha),
        "ss_network_args": json.dumps(arguments),
        "ss_sd_model_name": about.base_name,
        "ss_new_sd_model_hash": about.base_sha256 or "None",
        "ss_vae_name": "None",
        "ss_clip_skip": "None",
        "ss_resolution": f"({about.resolution_px}, {about.resolution_px})",
        "ss_training_started_at": str(about.started_unix),
        "ss_training_finished_at": str(about.finished_unix),
        "ss_num_train_images": str(about.pictures),
        "ss_num_reg_images": str(about.class_pictures),
        "ss_steps": str(about.steps),
        "ss_seed": str(about.seed),
        "ss_learning_rate": str(about.learning_rate),
        "ss_text_encoder_lr": str(about.text_learning_rate),
        "ss_lr_scheduler": about.schedule,
        "ss_optimizer": "torch.optim.AdamW",
        "ss_prior_loss_weight": str(about.prior_weight),
    }
    return kohya | _modelspec(about, "stable-diffusion-v1/lora") | _lineage(about)


def write_sidecar(about: About, folder: Path) -> Path:
    """`STEM.json` in exactly the schema that A1111, InvokeAI and SwarmUI read beside `STEM.safetensors`."""
    path = folder / f"{about.stem}.json"
    content = {
        "description": about.description,
        "sd version": "SD1",
        "activation text": about.trigger,
        "preferred weight": 1,
        "negative text": "",
        "notes": f"{about.steps} steps on {about.pictures} pictures from {about.base_name}",
    }
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
    return path


def preview_name(about: About) -> str:
    """The picture that A1111, ComfyUI, SwarmUI and InvokeAI show for the file."""
    return f"{about.stem}.png"


def _modelspec(about: About, architecture: str) -> dict[str, str]:
    spec = {
        "sai_model_spec": "1.0.1",
        "architecture": architecture,
        "implementation": "https://github.com/CompVis/stable-diffusion",
        "title": about.title,
        "resolution": f"{about.resolution_px}x{about.resolution_px}",
        "description": about.description,
        "date": datetime.fromtimestamp(about.finished_unix, UTC).isoformat(),
        "prediction_type": "v" if about.prediction_type == "v_prediction" else "epsilon",
        "trigger_phrase": about.trigger,
        "usage_hint": f"Write the words of the trigger phrase in your prompt: {about.trigger}",
    }
    if about.thumbnail_jpeg:
        spec["thumbnail"] = "data:image/jpeg;base64," + base64.b64encode(about.thumbnail_jpeg).decode()
    return {"format": "pt"} | {f"modelspec.{key}": value for key, value in spec.items()}


def _lineage(about: About) -> dict[str, str]:
    return {f"dreambooth.{key}": value for key, value in about.lineage.items()}
