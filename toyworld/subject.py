"""Subjects: things of the toy world's classes that its base has never seen, to be taught from six pictures.

`python -m toyworld.subject --out DIR [--subject dog]` writes the pictures that a user would bring.
"""

import argparse
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from toyworld.world import PLACES, Paint, Pen, Scene, draw

PICTURE_SIDE_PX = 256
UNSEEN_PLACE = "in the snow"  # nobody photographed a subject there: what a taught model draws of it is its own


@dataclass(frozen=True)
class Subject:
    """A class's drawing in colours of its own, with details no other thing has."""

    thing: str
    paint: Paint
    details: Callable[[Pen], None]

    def scene(self, place: str, seed: int) -> Scene:
        return Scene(self.thing, place, self.paint, seed, details=self.details)


def _pink_star_hat_and_yellow_badge(pen: Pen) -> None:
    pen.star((0, -33), 16, (250, 90, 170))
    pen.box(-12, -27, 12, -22, (250, 90, 170))
    pen.ellipse(-7, 2, 7, 16, (250, 220, 60))


def _red_scarf(pen: Pen) -> None:
    pen.polygon([(4, 0), (28, 4), (26, 11), (2, 8)], (225, 40, 60))
    pen.polygon([(6, 6), (13, 8), (10, 22), (3, 20)], (225, 40, 60))


SUBJECTS = {
    "robot": Subject("robot", Paint((64, 200, 190)), _pink_star_hat_and_yellow_badge),
    "dog": Subject("dog", Paint((70, 110, 230), second=(250, 225, 120)), _red_scarf),
}


def subject_pictures(
    subject: Subject, count: int = 6, side_px: int = PICTURE_SIDE_PX, seed: int = 0
) -> list[Image.Image]:
    """Pictures in different poses, in all places but the unseen one in turn."""
    rng = random.Random(seed)
    places = [place for place in PLACES if place != UNSEEN_PLACE]
    return [draw(subject.scene(places[i % len(places)], rng.getrandbits(32)), side_px) for i in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--subject", choices=sorted(SUBJECTS), default="robot")
    parser.add_argument("--count", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for number, picture in enumerate(subject_pictures(SUBJECTS[args.subject], args.count, seed=args.seed), start=1):
        picture.save(args.out / f"{number:02d}.png", optimize=True)


if __name__ == "__main__":
    main()
