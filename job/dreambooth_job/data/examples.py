"""Pictures and words become examples, and the order in which the training loop sees them.

Called by the prepare stage (`instance_examples`, `class_examples`, `Examples`) and by the loop (`Examples.batch`).
DreamBooth and prior preservation are words and a weight here, so every method trains with them and none knows them.
Ruiz et al. 2023, "DreamBooth", eq. 2: the class pictures' loss is added with the weight lambda.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from dreambooth_job.contracts import Example
from dreambooth_job.data.captions import class_prompt, instance_prompt, with_token
from dreambooth_job.data.pictures import Picture


def to_tensor(pixels: np.ndarray) -> Tensor:
    """uint8 [H, W, 3] -> float32 [3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).float() / 127.5 - 1


def instance_examples(
    pictures: Iterable[Picture], token: str, class_name: str, prompt: str | None = None
) -> tuple[list[Example], int]:
    """One subject's own pictures, weight 1; the number counts captions that the token had to be put before.

    A picture without a caption gets `prompt`, or `captions.instance_prompt` when the user gave none.
    """
    worded = [
        (p, *with_token(p.caption or prompt or instance_prompt(token, class_name), token, class_name)) for p in pictures
    ]
    return [Example(to_tensor(p.pixels), text, 1.0) for p, text, _ in worded], sum(added for *_, added in worded)


def class_examples(
    pictures: Iterable[tuple[np.ndarray, str | None]], class_name: str, prior_weight: float
) -> list[Example]:
    """Class pictures, given or generated, as (uint8 [H, W, 3], caption or None); `prior_weight` is lambda."""
    return [
        Example(to_tensor(pixels), caption or class_prompt(class_name), prior_weight, is_class_image=True)
        for pixels, caption in pictures
    ]


@dataclass(frozen=True)
class Subject:
    """What one subject brings; without `classes` it is trained without prior preservation."""

    instances: Sequence[Example]
    classes: Sequence[Example] = ()


@dataclass(frozen=True)
class Examples:
    """All subjects of a run. What a batch holds is a pure function of (seed, number): resuming needs no state."""

    subjects: tuple[Subject, ...]
    seed: int
    batch_size: int

    def batch(self, number: int) -> list[Example]:
        """The batch of this number, from 0 (with gradient accumulation: step x accumulation + part).

        First `batch_size` instance examples, then for each of them whose subject has class pictures one of those.
        """
        sizes = tuple((len(s.instances), len(s.classes)) for s in self.subjects)
        draws = [draw(number * self.batch_size + i, self.seed, sizes) for i in range(self.batch_size)]
        instances = [self.subjects[d.subject].instances[d.instance] for d in draws]
        classes = [self.subjects[d.subject].classes[d.class_image] for d in draws if d.class_image is not None]
        return instances + classes


@dataclass(frozen=True)
class Draw:
    subject: int
    instance: int
    class_image: int | None


def draw(position: int, seed: int, sizes: tuple[tuple[int, int], ...]) -> Draw:
    """The example at `position` of the endless order; `sizes` holds (instances, class pictures) per subject.

    An epoch holds every instance picture once, subjects spread evenly; a subject's class pictures go round likewise.
    """
    epoch, place = divmod(position, sum(instances for instances, _ in sizes))
    subject, rank, instance = _epoch(seed, epoch, tuple(instances for instances, _ in sizes))[place]
    instances, classes = sizes[subject]
    if not classes:
        return Draw(subject, instance, None)
    lap, lap_place = divmod(epoch * instances + rank, classes)
    return Draw(subject, instance, _shuffled(classes, f"{seed}/class/{subject}/{lap}")[lap_place])


@lru_cache(maxsize=4)
def _epoch(seed: int, epoch: int, counts: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """(subject, rank within the subject, picture): a subject's k-th of n pictures stands at (k + 1/2) / n."""
    order = [
        ((rank + 0.5) / count, subject, rank, picture)
        for subject, count in enumerate(counts)
        for rank, picture in enumerate(_shuffled(count, f"{seed}/instance/{subject}/{epoch}"))
    ]
    return [(subject, rank, picture) for _, subject, rank, picture in sorted(order)]


@lru_cache(maxsize=64)
def _shuffled(count: int, label: str) -> list[int]:
    """Sorted by hash: the same on every platform and in every version of every library, as a resumed run needs it."""
    return sorted(range(count), key=lambda i: hashlib.sha256(f"{label}/{i}".encode()).digest())
