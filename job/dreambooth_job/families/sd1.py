"""Stable Diffusion 1.x: one CLIP text encoder, a UNet on 4-channel latents, noise or velocity prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from torch import Tensor, nn

from dreambooth_job.contracts import Conditioning, Model, Posterior, Site, Sites, TextPart
from dreambooth_job.families import objectives, sd1_layout, sd1_modules, sd1_source
from dreambooth_job.families.clip_vocabulary import MAX_TOKENS
from dreambooth_job.families.weights import fill

_LINEAR_IN_UNET = (".attn1.", ".attn2.", ".ff.")
_CONV_IN_UNET = (".resnets.", ".downsamplers.", ".upsamplers.")


class SD1:
    """The `Family` of Stable Diffusion 1; see `contracts.py` for what each method promises."""

    name = "sd1"
    max_tokens = MAX_TOKENS

    def load(
        self,
        source: Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        allow_pickle: bool = False,
        config_source: Path | None = None,
        vae: Path | None = None,
    ) -> Model:
        """Reads a diffusers folder, an original `.safetensors` or a `.ckpt`; frozen, in eval mode.

        `config_source` is a diffusers folder whose configs and tokenizer a single file borrows; `vae` replaces the
        base's own. The VAE is float32 whatever `dtype` says: it runs once per picture and loses detail in fp16.
        Raises BaseModelUnreadable, BaseModelUnsupported, PickleRefused.
        """
        base = sd1_source.read(source, allow_pickle=allow_pickle, config_source=config_source, vae=vae)
        modules = sd1_modules.empty_modules(base.configs)
        tensors = {**base.tensors, "text.0": _as_in_memory(base.tensors["text.0"], modules["text.0"])}
        for part, module in modules.items():
            fill(module, tensors[part], part, torch.float32 if part == "vae" else dtype)
        _set_position_ids(modules["text.0"])
        for module in modules.values():
            module.to(device)
        return Model(
            denoiser=modules["denoiser"],
            text=(TextPart(base.tokenizer, modules["text.0"]),),
            vae=modules["vae"],
            objective=objectives.from_scheduler_config(base.scheduler_config),
            scheduler_config=base.scheduler_config,
            resolution_px=modules["denoiser"].config.sample_size * latent_factor(modules["vae"]),
        )

    def resolution_px(self, source: Path, config_source: Path | None) -> int:
        return sd1_source.resolution_px(source, config_source)

    @torch.no_grad()
    def encode_images(self, model: Model, pixels: Tensor) -> Posterior:
        posterior = model.vae.encode(pixels.to(model.vae.device, model.vae.dtype)).latent_dist
        scale = model.vae.config.scaling_factor
        return Posterior(posterior.mean * scale, posterior.std * scale)

    @torch.no_grad()
    def decode_latents(self, model: Model, latents: Tensor) -> Tensor:
        scaled = latents.to(model.vae.dtype) / model.vae.config.scaling_factor
        return model.vae.decode(scaled).sample.clamp(-1, 1)

    def count_tokens(self, model: Model, prompt: str) -> int:
        return len(model.text[0].tokenizer(prompt).input_ids)

    def encode_prompts(self, model: Model, prompts: Sequence[str]) -> Conditioning:
        """Last hidden state after the final layer norm, [B, 77, width]; what is longer is cut at 77 tokens."""
        part = model.text[0]
        tokens = part.tokenizer(
            list(prompts), padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
        )
        return {"text": part.encoder(tokens.input_ids.to(model.denoiser.device)).last_hidden_state}

    def predict(self, model: Model, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        dtype = model.denoiser.dtype
        return model.denoiser(noisy.to(dtype), timesteps, conditioning["text"].to(dtype)).sample

    def sites(self, model: Model) -> Sites:
        unet, text = model.denoiser, model.text[0].encoder
        linear = [s for s in _sites("denoiser", unet, nn.Linear) if any(part in s.path for part in _LINEAR_IN_UNET)]
        text_linear = [s for s in _sites("text.0", text, nn.Linear) if ".layers." in s.path]
        conv = [s for s in _sites("denoiser", unet, nn.Conv2d) if any(part in s.path for part in _CONV_IN_UNET)]
        return Sites(linear=[*linear, *text_linear], conv=conv)

    def pipeline(self, model: Model) -> StableDiffusionPipeline:
        """diffusers' pipeline over the same live modules, so it draws with whatever a method attached.

        DPM-Solver++ needs 20 to 25 steps where the base's own sampler needs 50; "trailing" starts it at full noise.
        (The pipeline insists on an offset of 1, which "trailing" does not use.)
        """
        scheduler = DPMSolverMultistepScheduler.from_config(
            dict(model.scheduler_config), timestep_spacing="trailing", steps_offset=1
        )
        pipeline = StableDiffusionPipeline(
            vae=model.vae,
            text_encoder=model.text[0].encoder,
            tokenizer=model.text[0].tokenizer,
            unet=model.denoiser,
            scheduler=scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def pipeline_inputs(self, model: Model, prompts: Sequence[str], negative: str) -> dict[str, Tensor]:
        """Words as the pipeline takes them when encoded; given raw ones, it would write what it cuts into the log."""
        text = self.encode_prompts(model, prompts)["text"]
        return {
            "prompt_embeds": text,
            "negative_prompt_embeds": self.encode_prompts(model, [negative])["text"].expand_as(text),
        }

    def original_layout(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return sd1_layout.original_layout(tensors)

    def adapter_name(self, part: str, path: str) -> str:
        """The name web UIs give the adapter of a module (kohya's `networks/lora.py`): dots become underscores."""
        prefix = "lora_unet_" if part == "denoiser" else "lora_te_"
        return prefix + self.folder_path(part, path).replace(".", "_")

    def folder_path(self, part: str, path: str) -> str:
        return sd1_layout.nested_text_path(path) if part == "text.0" else path


def latent_factor(vae: Any) -> int:
    """Pixels per latent along one side."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def _sites(part: str, root: nn.Module, kind: type[nn.Module]) -> list[Site]:
    found = []
    for path, module in root.named_modules():
        if isinstance(module, kind):
            parent, _, attribute = path.rpartition(".")
            found.append(Site(part, path, root.get_submodule(parent), attribute))
    return found


def _as_in_memory(tensors: Mapping[str, Tensor], encoder: nn.Module) -> dict[str, Tensor]:
    """Text tensors under the names that this version of transformers uses, with or without `text_model.`."""
    names = {sd1_layout.flat_text_path(name): name for name in encoder.state_dict()}
    flat = {sd1_layout.flat_text_path(name): tensor for name, tensor in tensors.items()}
    flat.pop("embeddings.position_ids", None)  # 0, 1, 2, ...; stored by old versions
    return {names.get(name, name): tensor for name, tensor in flat.items()}


def _set_position_ids(encoder: nn.Module) -> None:
    """CLIP's only buffer is in no file: without this it stays on the meta device and fails at the first prompt."""
    for name, buffer in encoder.named_buffers():
        owner, _, attribute = name.rpartition(".")
        encoder.get_submodule(owner).register_buffer(attribute, torch.arange(buffer.shape[-1])[None], persistent=False)
