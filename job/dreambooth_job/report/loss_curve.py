"""The loss over the steps as a small SVG: every value faint, their moving mean strong.

Own writer, because a hundred lines need no plotting library in the job's image and can follow the reader's colours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Point = tuple[float, float]

WIDTH, HEIGHT = 480, 220
LEFT, RIGHT, TOP, BOTTOM = 48, 18, 10, 30
MOST_POINTS = 600  # more than the picture has pixels would only make the file large
STYLE = (
    "svg{color:#222;color-scheme:light dark}@media(prefers-color-scheme:dark){svg{color:#ddd}}"
    "text{font:12px sans-serif;fill:currentColor}"
)


def loss_svg(losses: Sequence[tuple[int, float]]) -> str:
    """`losses` holds (step, loss); values that are no finite numbers are left out. Stands alone or inside HTML."""
    finite = [(step, loss) for step, loss in losses if math.isfinite(loss)]
    if not finite:
        return _svg("No loss was recorded.", [f'<text x="{WIDTH / 2}" y="{HEIGHT / 2}">no loss recorded</text>'])
    window = mean_window(len(finite))
    mean = moving_mean([loss for _, loss in finite], window)
    plot = _Plot(finite[0][0], finite[-1][0], max(loss for _, loss in finite))
    smooth = [(step, value) for (step, _), value in zip(finite, mean, strict=True)]
    ends = f"from {mean[window - 1]:.3g} to {mean[-1]:.3g}"
    said = f"Training loss, steps {finite[0][0]} to {finite[-1][0]}: mean of {window} values {ends}."
    return _svg(said, [
        *plot.axes(), plot.line(_thinned(finite), 'stroke-opacity=".25"'),
        plot.line(_thinned(smooth), 'stroke-width="2.5"'),
        f'<text x="{WIDTH - RIGHT}" y="{TOP + 12}" text-anchor="end">loss; strong line: mean of {window} values</text>',
    ])  # fmt: skip


def mean_window(count: int) -> int:
    """A tenth of the run: the loss of single steps is mostly the luck of their noise level."""
    return max(1, count // 10)


def moving_mean(values: Sequence[float], window: int) -> list[float]:
    """The mean of the last `window` values at each place; of fewer at the start."""
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    return [(sums[i] - sums[max(0, i - window)]) / min(i, window) for i in range(1, len(sums))]


class _Plot:
    """Maps steps and losses to pixels; the loss axis starts at 0, or a flat run would look eventful."""

    def __init__(self, first: int, last: int, highest: float) -> None:
        self.first, self.last = first, max(last, first + 1)
        self.tick = _nice(highest / 4)
        self.top = self.tick * max(1, math.ceil(highest / self.tick))

    def x(self, step: float) -> float:
        return LEFT + (step - self.first) / (self.last - self.first) * (WIDTH - LEFT - RIGHT)

    def y(self, loss: float) -> float:
        return HEIGHT - BOTTOM - loss / self.top * (HEIGHT - TOP - BOTTOM)

    def line(self, points: Sequence[Point], look: str) -> str:
        path = " ".join(f"{self.x(step):.1f},{self.y(loss):.1f}" for step, loss in points)
        return f'<polyline fill="none" stroke="#3b82c4" {look} points="{path}"/>'

    def axes(self) -> list[str]:
        marks = []
        for i in range(round(self.top / self.tick) + 1):
            y = self.y(i * self.tick)
            marks.append(f'<path d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}" stroke="currentColor" stroke-opacity=".15"/>')
            marks.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{i * self.tick:.3g}</text>')
        tick = max(1, round(_nice((self.last - self.first) / 5)))
        for step in range(math.ceil(self.first / tick) * tick, self.last + 1, tick):
            marks.append(f'<text x="{self.x(step):.1f}" y="{HEIGHT - 14}" text-anchor="middle">{step}</text>')
        return [*marks, f'<text x="{LEFT - 6}" y="{HEIGHT - 14}" text-anchor="end">step</text>']


def _nice(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power: float = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= value * (1 - 1e-9))


def _thinned(points: Sequence[Point]) -> list[Point]:
    every = math.ceil(len(points) / MOST_POINTS)
    return [*points[::every], points[-1]]


def _svg(said: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{said}">'
        f"<title>{said}</title><style>{STYLE}</style>{''.join(parts)}</svg>\n"
    )
