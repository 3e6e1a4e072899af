"""Sample pictures as one labelled PNG: a row per step, step 0 first, a column per prompt; and a single preview."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from dreambooth_job.journal import Sample

CELL_PX = 256
GAP_PX = 8
STEP_LABEL_PX = 88
LINE_PX = 18
FONT_PX = 14
PAPER, INK = (255, 255, 255), (34, 34, 34)


def grid(samples: Sequence[Sample], prompts: Sequence[str], steps: Sequence[int] | None = None) -> Image.Image:
    """All sampled steps, or those of `steps`: (0, last) makes the before/after picture. A missing cell stays empty."""
    shown = sorted({s.step for s in samples} if steps is None else set(steps))
    columns = sorted({s.prompt for s in samples})
    headers = [textwrap.wrap(prompts[c], CELL_PX // 8)[:3] for c in columns]
    top = GAP_PX + LINE_PX * max((len(h) for h in headers), default=1)
    pitch = CELL_PX + GAP_PX
    sheet = Image.new("RGB", (STEP_LABEL_PX + pitch * len(columns), top + pitch * len(shown)), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(FONT_PX)
    for number, lines in enumerate(headers):
        draw.multiline_text((STEP_LABEL_PX + number * pitch, 4), "\n".join(lines), fill=INK, font=font)
    for number, step in enumerate(shown):
        draw.text((GAP_PX, top + number * pitch), f"step {step}", fill=INK, font=font)
    for sample in samples:
        if sample.step in shown:
            at = (STEP_LABEL_PX + columns.index(sample.prompt) * pitch, top + shown.index(sample.step) * pitch)
            sheet.paste(fitted(sample.path, CELL_PX), at)
    return sheet


def fitted(path: Path, side_px: int) -> Image.Image:
    """The picture with its longer side at most `side_px`; a small one is enlarged by a whole factor, pixel by pixel."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    factor = side_px // max(image.size)
    if factor >= 1:
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    image.thumbnail((side_px, side_px), Image.Resampling.LANCZOS)
    return image


def write_preview(sample: Path, prompt: str, to: Path) -> None:
    """The card picture of a model in web UIs, at most 512 px; it says its prompt where they look for one, no more."""
    info = PngInfo()
    info.add_itxt("parameters", prompt)
    fitted(sample, 512).save(to, pnginfo=info, optimize=True)
