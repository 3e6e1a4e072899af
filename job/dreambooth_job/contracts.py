"""The protocols that hold the job together, on one page. Tensors are batch-first.

Pixels are float32 [B, 3, H, W] in [-1, 1]; latents are [B, C, h, w], already scaled; weights and losses are [B].
A family knows no method and a method knows no family; the training loop, the formats and the stores know neither.
Torch is named here and not imported: what fetches the inputs needs these protocols before torch is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

Conditioning = Mapping[str, "Tensor"]  # named tensors [B, ...]; made and read by the family alone


class Objective(Protocol):
    """What the denoiser is asked to predict; it comes from the checkpoint, never from the user."""

    def timesteps(self, count: int, generator: torch.Generator) -> Tensor: ...
    def corrupt(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor: ...
    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class TextPart:
    tokenizer: Any
    encoder: nn.Module


@dataclass(frozen=True)
class Model:
    """A loaded base. `scheduler_config` is the checkpoint's own, for sampling and for the diffusers folder."""

    denoiser: nn.Module
    text: tuple[TextPart, ...]
    vae: nn.Module
    objective: Objective
    scheduler_config: Mapping[str, Any]
    resolution_px: int  # the side of the pictures that the base was trained on

    def modules(self) -> dict[str, nn.Module]:
        """Every network by its stable name: `denoiser`, `text.0`, ..., `vae`."""
        return {"denoiser": self.denoiser, **{f"text.{i}": t.encoder for i, t in enumerate(self.text)}, "vae": self.vae}


@dataclass(frozen=True)
class Site:
    """One place a method may attach to: `parent.attribute` is the module, `path` its stable name below its part."""

    part: str  # "denoiser" or "text.0"
    path: str  # diffusers module path, dotted
    parent: nn.Module
    attribute: str

    @property
    def module(self) -> nn.Module:
        return self.parent.get_submodule(self.attribute)


@dataclass(frozen=True)
class Sites:
    linear: Sequence[Site]  # nn.Linear of attention and feed-forward blocks, denoiser first, then text encoders
    conv: Sequence[Site]  # nn.Conv2d of the denoiser's residual, down- and up-sampling blocks


@dataclass(frozen=True)
class Posterior:
    """What the VAE says of pictures: a normal distribution over scaled latents, both [B, C, h, w]."""

    mean: Tensor
    std: Tensor

    def sample(self, generator: torch.Generator) -> Tensor:
        """Drawn on the generator's device, so that a CPU generator gives the same latents on every device."""
        noise = self.mean.new_empty(self.mean.shape, device=generator.device).float().normal_(generator=generator)
        return self.mean + self.std * noise.to(self.mean)

    def rows(self, indices: Sequence[int]) -> Posterior:
        return Posterior(self.mean[list(indices)], self.std[list(indices)])


class Family(Protocol):
    """What a model is. Stateless: the weights live in `Model`."""

    name: str
    max_tokens: int  # a prompt is cut there, start and end included

    def load(
        self,
        source: Path,
        *,
        dtype: torch.dtype,
        device: torch.device | str,
        allow_pickle: bool,
        config_source: Path | None,
        vae: Path | None,
    ) -> Model: ...
    def resolution_px(self, source: Path, config_source: Path | None) -> int: ...  # the base's own, without loading it
    def encode_images(self, model: Model, pixels: Tensor) -> Posterior: ...
    def decode_latents(self, model: Model, latents: Tensor) -> Tensor: ...  # pixels in [-1, 1]
    def count_tokens(self, model: Model, prompt: str) -> int: ...
    def encode_prompts(self, model: Model, prompts: Sequence[str]) -> Conditioning: ...
    def predict(self, model: Model, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor: ...
    def sites(self, model: Model) -> Sites: ...
    def pipeline(self, model: Model) -> Any: ...  # a diffusers pipeline over the same live modules
    def pipeline_inputs(self, model: Model, prompts: Sequence[str], negative: str) -> dict[str, Tensor]: ...
    def original_layout(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]: ...
    def adapter_name(self, part: str, path: str) -> str: ...  # a module's name in web-UI adapter files
    def folder_path(self, part: str, path: str) -> str: ...  # a tensor's name in its part of a diffusers folder


class LearnedKind(StrEnum):
    FULL = "full"
    LORA = "lora"


@dataclass(frozen=True)
class Learned:
    """What a method learned. Keys are `<part>.<module path>.<name>`, e.g. `denoiser.mid_block....lora_down.weight`."""

    kind: LearnedKind
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ParamGroup:
    """Parameters that share a learning rate: `text` chooses training.textLearningRate over training.learningRate."""

    parameters: Sequence[nn.Parameter]
    text: bool


class Trainable(Protocol):
    trains_text: bool  # False lets prompt embeddings be computed once

    def groups(self) -> list[ParamGroup]: ...
    def state(self) -> dict[str, Tensor]: ...
    def restore(self, state: Mapping[str, Tensor]) -> None: ...
    def learned(self) -> Learned: ...


class Method(Protocol):
    """What may change. `attach` leaves every prediction as it was."""

    def attach(self, model: Model, sites: Sites, params: Any, generator: torch.Generator) -> Trainable: ...


@dataclass(frozen=True)
class Example:
    """One picture as the loop sees it. Prior preservation is a weight, captions are words: no branch anywhere."""

    pixels: Tensor  # [3, H, W]
    caption: str
    weight: float
    is_class_image: bool = False


@dataclass(frozen=True)
class ObjectInfo:
    key: str
    size_bytes: int
    etag: str


class Verification(StrEnum):
    """What a fetched file was checked against, the strongest first."""

    SHA256 = "sha256"  # a digest the caller gave
    CHECKSUM = "checksum"  # the checksum the store keeps of the object
    ETAG = "etag"  # the ETag, where it is the MD5 of the object
    UNVERIFIED = "unverified"  # the store knows nothing to compare with


class ObjectStore(Protocol):
    """A bucket. `get` leaves a whole verified file or none; `put` twice is harmless; keys are never local names.

    A write with a condition raises `storage.failures.ConditionLost` when another writer was first.
    """

    def list(self, prefix: str) -> Iterable[ObjectInfo]: ...
    def head(self, key: str) -> ObjectInfo | None: ...
    def get(self, info: ObjectInfo, to: Path, sha256: str | None = None) -> Verification: ...
    def put(
        self, source: Path, key: str, *, if_none_match: bool = False, if_match: str | None = None
    ) -> ObjectInfo: ...
    def delete(self, key: str) -> None: ...
    def peek(self, info: ObjectInfo) -> None: ...  # reads one byte: proves the right to read
    def probe_upload(
        self, key: str
    ) -> float: ...  # proves multipart rights; seconds this clock is ahead of the store's
    def abort_uploads(self, prefix: str) -> int: ...  # unfinished uploads whose key starts so; how many there were
    def within(self, budget_seconds: float, *, deaf: bool = False) -> ObjectStore: ...  # deaf to the stop signal
