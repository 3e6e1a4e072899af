"""The toy world: flat drawings of eight things, in any colour, in six places, small enough for a model trained on a
CPU.

Two languages meet here and must agree: pictures (`draw`) and captions (`caption`). Everything else of the package
builds on them: the base model is trained on `random_scene`, the subjects it must never see before DreamBooth are in
`subject.py`.

Coordinates. A picture is a square of 128 x 128 units whatever its size in pixels, y down. A thing is drawn about its
own origin, roughly -40..40 units, and then moved and scaled by the scene's pose.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

UNITS = 128
COLOURS: dict[str, Colour] = {
    "red": (220, 50, 47),
    "blue": (38, 100, 210),
    "green": (60, 160, 70),
    "yellow": (240, 200, 40),
    "purple": (140, 70, 180),
    "orange": (240, 140, 40),
    "white": (240, 240, 240),
    "black": (40, 40, 40),
}
BLACK, WHITE, GLASS = (25, 25, 25), (250, 250, 250), (190, 225, 245)


class Pen:
    """Draws shapes given in units about an origin; `scale` is units to units, the picture's own pixels are added."""

    def __init__(self, canvas: Image.Image, origin: Point = (0, 0), scale: float = 1.0):
        self._draw = ImageDraw.Draw(canvas)
        self._pixels = canvas.width / UNITS
        self._origin = origin
        self._scale = scale

    def _place(self, x: float, y: float) -> Point:
        return (
            (self._origin[0] + x * self._scale) * self._pixels,
            (self._origin[1] + y * self._scale) * self._pixels,
        )

    def ellipse(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        self._draw.ellipse([*self._place(left, top), *self._place(right, bottom)], fill=colour)

    def ring(self, left: float, top: float, right: float, bottom: float, colour: Colour, width: float) -> None:
        pixels = max(1, round(width * self._scale * self._pixels))
        self._draw.ellipse([*self._place(left, top), *self._place(right, bottom)], outline=colour, width=pixels)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        self._draw.rectangle([*self._place(left, top), *self._place(right, bottom)], fill=colour)

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        self._draw.polygon([self._place(x, y) for x, y in points], fill=colour)

    def star(self, centre: Point, radius: float, colour: Colour) -> None:
        tips = [(radius if k % 2 == 0 else radius * 0.45, math.pi * (k / 5 - 0.5)) for k in range(10)]
        self.polygon([(centre[0] + r * math.cos(a), centre[1] + r * math.sin(a)) for r, a in tips], colour)


@dataclass(frozen=True)
class Paint:
    """The colours of one thing: `main` and, where a thing has a second part (a head, a roof), `second`."""

    main: Colour
    second: Colour | None = None

    @property
    def shade(self) -> Colour:
        r, g, b = self.second or self.main
        return int(r * 0.65), int(g * 0.65), int(b * 0.65)


# --- things -----------------------------------------------------------------------------------------------------------


def _dog(pen: Pen, paint: Paint) -> None:
    pen.polygon([(-22, 8), (-36, -8), (-30, -10), (-18, 6)], paint.shade)
    pen.box(-18, 20, -12, 36, paint.main)
    pen.box(8, 20, 14, 36, paint.main)
    pen.ellipse(-22, 0, 18, 26, paint.main)
    pen.ellipse(6, -22, 34, 6, paint.second or paint.main)
    pen.ellipse(4, -22, 12, 2, paint.shade)
    pen.ellipse(28, -22, 36, 2, paint.shade)
    pen.ellipse(13, -13, 17, -9, BLACK)
    pen.ellipse(23, -13, 27, -9, BLACK)
    pen.ellipse(17, -6, 24, -1, BLACK)


def _cat(pen: Pen, paint: Paint) -> None:
    pen.polygon([(-20, 14), (-32, -16), (-27, -18), (-16, 10)], paint.main)
    pen.box(-14, 22, -9, 34, paint.main)
    pen.box(6, 22, 11, 34, paint.main)
    pen.ellipse(-20, 2, 16, 28, paint.main)
    pen.polygon([(3, -12), (5, -28), (13, -18)], paint.shade)
    pen.polygon([(27, -12), (25, -28), (17, -18)], paint.shade)
    pen.ellipse(2, -20, 28, 6, paint.second or paint.main)
    pen.ellipse(8, -10, 12, -5, (240, 230, 60))
    pen.ellipse(18, -10, 22, -5, (240, 230, 60))


def _robot(pen: Pen, paint: Paint) -> None:
    pen.box(-1, -34, 1, -26, BLACK)
    pen.ellipse(-3, -38, 3, -32, (240, 60, 60))
    pen.box(-14, -4, 14, 24, paint.main)
    pen.box(-10, -26, 10, -6, paint.shade)
    pen.box(-7, -20, -2, -15, WHITE)
    pen.box(2, -20, 7, -15, WHITE)
    pen.box(-22, -2, -15, 16, paint.shade)
    pen.box(15, -2, 22, 16, paint.shade)
    pen.box(-11, 24, -4, 36, paint.shade)
    pen.box(4, 24, 11, 36, paint.shade)


def _car(pen: Pen, paint: Paint) -> None:
    pen.polygon([(-20, 2), (-12, -14), (14, -14), (24, 2)], paint.second or paint.main)
    pen.polygon([(-15, 1), (-10, -11), (0, -11), (0, 1)], GLASS)
    pen.polygon([(3, 1), (3, -11), (12, -11), (19, 1)], GLASS)
    pen.box(-34, 2, 34, 20, paint.main)
    pen.ellipse(-26, 12, -10, 28, BLACK)
    pen.ellipse(10, 12, 26, 28, BLACK)


def _house(pen: Pen, paint: Paint) -> None:
    pen.box(-24, -4, 24, 34, paint.main)
    pen.polygon([(-30, -4), (0, -32), (30, -4)], paint.shade)
    pen.box(-6, 12, 6, 34, (110, 70, 40))
    pen.box(-18, 4, -9, 13, (250, 240, 170))
    pen.box(9, 4, 18, 13, (250, 240, 170))


def _fish(pen: Pen, paint: Paint) -> None:
    pen.polygon([(-22, 1), (-40, -14), (-40, 16)], paint.shade)
    pen.polygon([(-4, -12), (4, -24), (10, -11)], paint.shade)
    pen.ellipse(-26, -14, 22, 16, paint.main)
    pen.ellipse(8, -6, 14, 0, WHITE)
    pen.ellipse(10, -4, 13, -1, BLACK)


def _teapot(pen: Pen, paint: Paint) -> None:
    pen.ring(-38, -4, -16, 18, paint.shade, width=4)
    pen.polygon([(18, 8), (40, -10), (44, -5), (22, 20)], paint.main)
    pen.ellipse(-22, -12, 22, 28, paint.main)
    pen.box(-10, -16, 10, -10, paint.shade)
    pen.ellipse(-4, -24, 4, -15, paint.shade)


def _flower(pen: Pen, paint: Paint) -> None:
    pen.box(-2, 4, 2, 38, (60, 130, 60))
    pen.polygon([(2, 24), (16, 16), (10, 28)], (60, 130, 60))
    for petal in range(6):
        x, y = 14 * math.cos(petal * math.pi / 3), 14 * math.sin(petal * math.pi / 3) - 6
        pen.ellipse(x - 9, y - 9, x + 9, y + 9, paint.main)
    pen.ellipse(-8, -14, 8, 2, (250, 220, 80) if paint.second is None else paint.second)


CLASSES: dict[str, Callable[[Pen, Paint], None]] = {
    "dog": _dog,
    "cat": _cat,
    "robot": _robot,
    "car": _car,
    "house": _house,
    "fish": _fish,
    "teapot": _teapot,
    "flower": _flower,
}


# --- places -----------------------------------------------------------------------------------------------------------


def _beach(pen: Pen, rng: random.Random) -> None:
    pen.box(0, 0, 128, 60, (150, 205, 240))
    pen.box(0, 60, 128, 80, (60, 130, 200))
    pen.box(0, 80, 128, 128, (235, 215, 160))


def _snow(pen: Pen, rng: random.Random) -> None:
    pen.box(0, 0, 128, 70, (190, 205, 220))
    pen.box(0, 70, 128, 128, (245, 248, 252))
    for _ in range(20):
        x, y = rng.uniform(0, 128), rng.uniform(0, 70)
        pen.ellipse(x, y, x + 4, y + 4, (255, 255, 255))


def _grass(pen: Pen, rng: random.Random) -> None:
    pen.box(0, 0, 128, 70, (160, 210, 245))
    pen.box(0, 70, 128, 128, (95, 170, 80))


def _night(pen: Pen, rng: random.Random) -> None:
    pen.box(0, 0, 128, 128, (20, 24, 60))
    pen.ellipse(95, 10, 115, 30, (250, 245, 200))
    for _ in range(15):
        x, y = rng.uniform(0, 128), rng.uniform(0, 80)
        pen.ellipse(x, y, x + 2, y + 2, (255, 255, 255))
    pen.box(0, 90, 128, 128, (30, 40, 45))


def _desert(pen: Pen, rng: random.Random) -> None:
    pen.box(0, 0, 128, 128, (250, 190, 120))
    pen.polygon([(0, 128), (0, 80), (40, 60), (90, 85), (128, 65), (128, 128)], (215, 160, 90))


def _room(pen: Pen, rng: random.Random) -> None:
    pen.box(0, 0, 128, 85, (225, 205, 190))
    pen.box(0, 85, 128, 128, (150, 100, 65))
    pen.box(15, 15, 45, 45, (110, 80, 60))
    pen.box(18, 18, 42, 42, (170, 215, 240))


PLACES: dict[str, Callable[[Pen, random.Random], None]] = {
    "on the beach": _beach,
    "in the snow": _snow,
    "on the grass": _grass,
    "at night": _night,
    "in the desert": _desert,
    "in a room": _room,
}


# --- scenes -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """One picture: a thing of a class, painted, in a place. `colour` names the paint, or is None where no word fits.

    `seed` fixes the pose and the snowflakes; `details` is drawn last, about the thing's origin (a hat, a badge).
    """

    thing: str
    place: str
    paint: Paint
    seed: int
    colour: str | None = None
    details: Callable[[Pen], None] | None = None


def draw(scene: Scene, side_px: int = 64) -> Image.Image:
    """An RGB picture of side_px x side_px; drawn four times larger and reduced, so that edges are smooth."""
    rng = random.Random(scene.seed)
    canvas = Image.new("RGB", (4 * side_px, 4 * side_px))
    origin = 64 + rng.uniform(-18, 18), 70 + rng.uniform(-12, 10)
    pen = Pen(canvas, origin, scale=rng.uniform(0.85, 1.25))
    PLACES[scene.place](Pen(canvas), rng)
    CLASSES[scene.thing](pen, scene.paint)
    if scene.details:
        scene.details(pen)
    return canvas.resize((side_px, side_px), Image.Resampling.LANCZOS)


def random_scene(rng: random.Random, thing: str | None = None) -> Scene:
    """A scene in a named colour (three in five) or any colour of the RGB cube, so no subject has a new one."""
    thing = thing or rng.choice(list(CLASSES))
    colour = rng.choice(list(COLOURS)) if rng.random() < 0.6 else None
    if colour:
        main = tuple(max(0, min(255, channel + rng.randint(-14, 14))) for channel in COLOURS[colour])
    else:
        main = tuple(rng.randint(0, 255) for _ in range(3))
    return Scene(thing, rng.choice(list(PLACES)), Paint(main), rng.getrandbits(32), colour)


def caption(scene: Scene, rng: random.Random) -> str:
    """`a photo of a [colour] thing [place]`; colour and place are left out now and then, so each word stands alone."""
    words = ["a photo of a"]
    if scene.colour and rng.random() < 0.8:
        words.append(scene.colour)
    words.append(scene.thing)
    if rng.random() < 0.8:
        words.append(scene.place)
    return " ".join(words)
