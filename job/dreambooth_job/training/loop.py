"""The training loop, told as one story: encode once, then noise, predict, compare, step.

It knows neither families nor methods nor where examples come from. All randomness of a batch comes from (seed, number
of the batch), so an interrupted run goes on from a checkpoint exactly as if nothing had happened.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog
import torch
from torch import Tensor

from dreambooth_job.contracts import Conditioning, Example, Family, Model, Posterior, Trainable
from dreambooth_job.errors import Diverged
from dreambooth_job.training import precision
from dreambooth_job.training.config import TrainingConfig

log = structlog.get_logger()

_ENCODED_PIXELS = 2**20  # per forward pass of the VAE: 4 pictures of 512 px, 256 of 64 px


@dataclass
class TrainingState:
    """All that changes while training; a checkpoint holds it, and nothing else is needed to go on."""

    trainable: Trainable
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    step: int = 0  # optimizer steps done


@dataclass(frozen=True)
class Step:
    """What the loop tells after each optimizer step."""

    number: int  # steps done
    learning_rate: float  # of the denoiser, in the step just done
    loss: float | None  # mean since the last one told; None on the steps between
    seconds: float  # since the last step


def begin(trainable: Trainable, config: TrainingConfig, device: torch.device | str) -> TrainingState:
    """A state before its first step: AdamW (Loshchilov and Hutter 2019) over the trainable's groups."""
    groups = [
        {"params": list(g.parameters), "peak": config.text_learning_rate if g.text else config.learning_rate}
        for g in trainable.groups()
    ]
    optimizer = torch.optim.AdamW(groups, lr=0.0, weight_decay=config.weight_decay, fused=True)
    return TrainingState(trainable, optimizer, precision.scaler(device, config.precision))


def train(
    family: Family,
    model: Model,
    state: TrainingState,
    examples: Sequence[Example],
    batch: Callable[[int], Sequence[Example]],
    config: TrainingConfig,
    *,
    on_step: Callable[[Step], None],
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Trains from `state.step` to `config.steps`, or to the end of the step in which `stop` says True.

    `batch(number)` picks from `examples`; with gradient accumulation a step takes several batches. `on_step` runs
    after each step, when `state` is whole. Raises Diverged.
    """
    device = next(model.denoiser.parameters()).device
    cache = Cache(family, model, examples, state.trainable.trains_text, config.precision)
    moving = [p for group in state.optimizer.param_groups for p in group["params"]]
    loss_sum, losses, last = torch.zeros((), device=device), 0, time.monotonic()

    while state.step < config.steps and not stop():
        for part in range(config.gradient_accumulation):
            number = state.step * config.gradient_accumulation + part
            generator = generator_for(config.seed, number)
            chosen = batch(number)
            latents = cache.posterior(chosen).sample(generator)
            noise = torch.randn(latents.shape, generator=generator).to(latents)
            timesteps = model.objective.timesteps(len(chosen), generator).to(device)

            with precision.autocast(device, config.precision):
                noisy = model.objective.corrupt(latents, noise, timesteps)
                predicted = family.predict(model, noisy, timesteps, cache.conditioning(chosen))
            loss = weighted_loss(predicted, model.objective.target(latents, noise, timesteps), chosen)
            state.scaler.scale(loss / config.gradient_accumulation).backward()
            loss_sum += loss.detach()
            losses += 1

        factor = config.rate_factor(state.step)
        for group in state.optimizer.param_groups:
            group["lr"] = group["peak"] * factor
        state.scaler.unscale_(state.optimizer)
        torch.nn.utils.clip_grad_norm_(moving, config.max_grad_norm)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        state.optimizer.zero_grad(set_to_none=True)
        state.step += 1

        mean_loss = None
        if state.step % config.loss_every_steps == 0 or state.step == config.steps:
            mean_loss = _finite(loss_sum.item() / losses, state.step)
            loss_sum, losses = torch.zeros((), device=device), 0
        now = time.monotonic()
        on_step(Step(state.step, config.learning_rate * factor, mean_loss, now - last))
        last = time.monotonic()


def weighted_loss(predicted: Tensor, target: Tensor, examples: Sequence[Example]) -> Tensor:
    """Ruiz et al. 2023, eq. 2: the mean over the subjects' pictures, plus the class pictures' with their weight."""
    each = (predicted.float() - target.float()).square().flatten(1).mean(1)
    weights = torch.tensor([example.weight for example in examples], device=each.device)
    own = sum(not example.is_class_image for example in examples)
    return (weights * each).sum() / max(1, own)


def generator_for(seed: int, number: int) -> torch.Generator:
    """The randomness of one batch. It lives on the CPU, so every device draws the same noise."""
    digest = hashlib.sha256(f"{seed}/batch/{number}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


class Cache:
    """What is computed once: each picture's latent distribution, and each caption's embedding while the text is frozen.

    Keyed by the example itself, so a picture can never meet another one's caption.
    """

    def __init__(
        self, family: Family, model: Model, examples: Sequence[Example], trains_text: bool, precision_name: str
    ) -> None:
        self._family, self._model, self._precision = family, model, precision_name
        self._rows = {id(example): row for row, example in enumerate(examples)}
        self._examples = examples  # kept alive: the rows are found by identity
        self._posterior = self._encode_images(examples)
        captions = list(dict.fromkeys(example.caption for example in examples))
        self._captions = {caption: row for row, caption in enumerate(captions)}
        self._warn_of_long(captions)
        self._embedded: Conditioning | None = None
        if not trains_text:
            with torch.no_grad(), precision.autocast(model.denoiser.device, precision_name):
                self._embedded = family.encode_prompts(model, captions)

    def posterior(self, chosen: Sequence[Example]) -> Posterior:
        return self._posterior.rows([self._rows[id(example)] for example in chosen])

    def conditioning(self, chosen: Sequence[Example]) -> Conditioning:
        if self._embedded is None:
            return self._family.encode_prompts(self._model, [example.caption for example in chosen])
        rows = [self._captions[example.caption] for example in chosen]
        return {name: tensor[rows] for name, tensor in self._embedded.items()}

    def _encode_images(self, examples: Sequence[Example]) -> Posterior:
        at_once = max(1, _ENCODED_PIXELS // examples[0].pixels[0].numel())
        parts = [
            self._family.encode_images(self._model, torch.stack([e.pixels for e in examples[i : i + at_once]]))
            for i in range(0, len(examples), at_once)
        ]
        return Posterior(torch.cat([p.mean for p in parts]), torch.cat([p.std for p in parts]))

    def _warn_of_long(self, captions: Sequence[str]) -> None:
        longest = max(self._family.count_tokens(self._model, caption) for caption in captions)
        if longest > self._family.max_tokens:
            log.warning("captions_cut", longest_tokens=longest, kept_tokens=self._family.max_tokens)


def _finite(loss: float, step: int) -> float:
    if not math.isfinite(loss):
        raise Diverged(
            f"the loss is no longer a finite number at step {step}; lower training.learningRate or use "
            "training.precision: fp32"
        )
    return loss
