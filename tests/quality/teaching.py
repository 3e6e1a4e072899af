"""Teaches a subject to the toy base with the job's own loop, and scores what the taught model draws.

`python -m tests.quality.teaching --method full --seeds 5` prints the scores of several trainings: the spread from
which the thresholds of `test_subject.py` are set.
"""

import argparse
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dreambooth_api.methods import Full, Lora
from dreambooth_job.contracts import Example, Model
from dreambooth_job.data.captions import class_prompt, instance_prompt
from dreambooth_job.data.examples import Examples, Subject, class_examples, to_tensor
from dreambooth_job.families.sd1 import SD1
from dreambooth_job.methods import METHODS
from dreambooth_job.training import loop
from dreambooth_job.training.config import TrainingConfig
from dreambooth_job.training.sampling import draw
from toyworld import sample
from toyworld.classifier import score
from toyworld.models import SIDE_PX
from toyworld.subject import SUBJECTS, UNSEEN_PLACE, subject_pictures
from toyworld.world import PLACES

BASE = Path(__file__).parents[2] / "toyworld" / "base"
TOKEN = "sks"
CLASS_PICTURES = 24


@dataclass(frozen=True)
class Recipe:
    """What a user would write into a TrainingJob to teach a subject to the toy base."""

    method: Full | Lora
    steps: int
    learning_rate: float
    class_weight: float = 1.0
    batch_size: int = 6
    schedule: str = "constant"


RECIPES = {
    "full": Recipe(Full(), steps=200, learning_rate=3e-4),
    "lora": Recipe(Lora(rank=16, train_text_encoder=False), steps=250, learning_rate=3e-3),
}


@dataclass(frozen=True)
class Scores:
    """Means over pictures, all in 0..1. A perfect model has ones, and a zero for `leaked`."""

    subject: float  # probability of the subject, all places asked for
    subject_unseen_place: float  # the same in the place of which the user brought no picture
    place: float  # share of the subject's pictures in the place asked for
    class_kept: float  # share of "a photo of a robot" that are robots
    leaked: float  # probability of the subject where only the class was asked for


def class_pictures(model: Model, thing: str) -> list[Image.Image]:
    """The base's own pictures of the class, as the job makes them when the user brings none."""
    return draw_many(model, [class_prompt(thing)] * CLASS_PICTURES, first_seed=1000)


def draw_many(model: Model, prompts: list[str], first_seed: int = 0) -> list[Image.Image]:
    seeds = range(first_seed, first_seed + len(prompts))
    return draw(SD1(), model, prompts, seeds, steps=sample.STEPS, guidance=sample.GUIDANCE, batch_size=24)


def examples_of(model: Model, thing: str, recipe: Recipe, seed: int) -> Examples:
    pictures = [np.asarray(picture) for picture in subject_pictures(SUBJECTS[thing], side_px=SIDE_PX)]
    own = [Example(to_tensor(picture), instance_prompt(TOKEN, thing), 1.0) for picture in pictures]
    drawn = [(np.asarray(picture), None) for picture in class_pictures(model, thing)] if recipe.class_weight else []
    return Examples((Subject(own, class_examples(drawn, thing, recipe.class_weight)),), seed, recipe.batch_size)


def teach(thing: str, recipe: Recipe, seed: int = 0, base: Path = BASE) -> Model:
    """The base with the subject of this class taught to it under TOKEN."""
    family = SD1()
    model = family.load(base)
    examples = examples_of(model, thing, recipe, seed)
    method = METHODS["full" if isinstance(recipe.method, Full) else "lora"]
    trainable = method.attach(model, family.sites(model), recipe.method, torch.Generator().manual_seed(seed))
    config = TrainingConfig(
        recipe.steps, recipe.learning_rate, recipe.learning_rate, seed=seed, schedule=recipe.schedule
    )
    state = loop.begin(trainable, config, "cpu")
    every = [example for subject in examples.subjects for example in (*subject.instances, *subject.classes)]
    loop.train(family, model, state, every, examples.batch, config, on_step=lambda step: None)
    return model


def judge(model: Model, thing: str, each: int = 4) -> tuple[Scores, list[Image.Image]]:
    """Draws `each` pictures of the subject in every place and as many of the class; scores them."""
    asked = [place for place in PLACES for _ in range(each)]
    own = draw_many(model, [f"{instance_prompt(TOKEN, thing)} {place}" for place in asked])
    others = draw_many(model, [class_prompt(thing)] * len(asked), first_seed=500)
    own_scores, other_scores = score(own), score(others)
    subject = [s.subject[thing] for s in own_scores]
    scores = Scores(
        subject=statistics.mean(subject),
        subject_unseen_place=statistics.mean(
            p for p, place in zip(subject, asked, strict=True) if place == UNSEEN_PLACE
        ),
        place=statistics.mean(s.place == place for s, place in zip(own_scores, asked, strict=True)),
        class_kept=statistics.mean(s.thing == thing for s in other_scores),
        leaked=statistics.mean(s.subject[thing] for s in other_scores),
    )
    return scores, own + others


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=RECIPES, default="full")
    parser.add_argument("--thing", choices=SUBJECTS, default="robot")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sheets", type=Path, help="folder for what each taught model draws")
    args = parser.parse_args()
    rows = []
    for seed in range(args.seeds):
        began = time.monotonic()
        model = teach(args.thing, RECIPES[args.method], seed)
        seconds = time.monotonic() - began
        scores, images = judge(model, args.thing)
        rows.append(asdict(scores) | {"training_seconds": seconds})
        print(seed, {name: round(value, 3) for name, value in rows[-1].items()}, flush=True)
        if args.sheets:
            args.sheets.mkdir(parents=True, exist_ok=True)
            sample.sheet(images, columns=12).save(args.sheets / f"{args.method}-{seed}.png")
    for name in rows[0]:
        values = [row[name] for row in rows]
        print(f"{name}: mean {statistics.mean(values):.3f}, min {min(values):.3f}, max {max(values):.3f}")


if __name__ == "__main__":
    main()
