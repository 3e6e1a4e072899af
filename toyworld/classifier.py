"""Judges 64 px pictures of the toy world: which thing, which place, and whether it is one of the subjects.

    score(images) -> list[SubjectScore]

The judge of the quality tests: a small convolutional network of the project's own, trained by `train_classifier` on
drawings that were blurred, recoloured a little and sent through the base's VAE, so that a generated picture is judged
by what it shows and not by its softness. Its weights lie beside this file.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from toyworld.subject import SUBJECTS
from toyworld.world import CLASSES, PLACES

SIDE_PX = 64
WEIGHTS = Path(__file__).with_name("classifier.safetensors")
KINDS = ("no subject", *SUBJECTS)


@dataclass(frozen=True)
class SubjectScore:
    """Probabilities of one picture; `subject` names each subject of `SUBJECTS`, what is left is no subject at all."""

    things: dict[str, float]
    places: dict[str, float]
    subject: dict[str, float]

    @property
    def thing(self) -> str:
        return max(self.things, key=self.things.__getitem__)

    @property
    def place(self) -> str:
        return max(self.places, key=self.places.__getitem__)


class Judge(nn.Module):
    """[N,3,64,64] in [-1,1] -> logits of thing [N,8], place [N,6] and subject [N,1+subjects]."""

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 24, 32, 48, 64)
        blocks = [self._halving_block(a, b) for a, b in pairwise(widths)]
        self.trunk = nn.Sequential(*blocks, nn.Flatten(), nn.Dropout(0.2), nn.Linear(64 * 4 * 4, 96), nn.ReLU())
        self.thing = nn.Linear(96, len(CLASSES))
        self.place = nn.Linear(96, len(PLACES))
        self.subject = nn.Linear(96, len(KINDS))

    @staticmethod
    def _halving_block(inputs: int, outputs: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 2, 1), nn.BatchNorm2d(outputs), nn.ReLU())

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.trunk(pixels)
        return self.thing(features), self.place(features), self.subject(features)


@cache
def judge() -> Judge:
    model = Judge()
    model.load_state_dict(load_file(WEIGHTS))
    return model.eval()


def pixels_of(images: Sequence[Image.Image]) -> Tensor:
    """[N,3,64,64] in [-1,1]; pictures of another size are reduced."""
    sized = [image.convert("RGB").resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS) for image in images]
    stacked = np.stack([np.asarray(image) for image in sized])
    return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1


@torch.no_grad()
def score(images: Sequence[Image.Image]) -> list[SubjectScore]:
    thing, place, subject = (logits.softmax(dim=1).tolist() for logits in judge()(pixels_of(images)))
    return [
        SubjectScore(
            dict(zip(CLASSES, t, strict=True)),
            dict(zip(PLACES, p, strict=True)),
            dict(zip(SUBJECTS, s[1:], strict=True)),
        )
        for t, p, s in zip(thing, place, subject, strict=True)
    ]
