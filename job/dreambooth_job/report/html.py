"""One self-contained report.html: no script, no outside request, dark and light, readable on a phone.

A presigned link opens one object only and artifact viewers block scripts, so everything is inside the file.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from PIL import Image

from dreambooth_job.config import Value
from dreambooth_job.data.pictures import Picture, SubjectPictures
from dreambooth_job.journal import Sample
from dreambooth_job.report.loss_curve import loss_svg, mean_window, moving_mean
from dreambooth_job.report.style import STYLE

MAX_BYTES = 5_000_000
SIDES_PX = (256, 160, 96)  # tried in turn until the file is small enough
MOST_STEPS_SHOWN = 8
HEAD = (
    '<!doctype html><html lang="en"><head><meta charset="utf-8">'
    '<meta name="viewport" content="width=device-width,initial-scale=1">'
    '<meta name="color-scheme" content="light dark">'
    '<meta http-equiv="Content-Security-Policy" '
    "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
    f"<style>{STYLE}</style>"
)


@dataclass(frozen=True)
class ReportSubject:
    token: str
    class_name: str
    prompt: str
    pictures: SubjectPictures


@dataclass(frozen=True)
class ReportFile:
    path: str  # below the output prefix
    size_bytes: int
    sha256: str
    use: str  # one phrase: what it is for


@dataclass(frozen=True)
class Report:
    """Facts only. `samples` name their prompt by its place in `prompts`; `stage_seconds` in the order they ran."""

    name: str
    method: str
    subjects: Sequence[ReportSubject]
    prompts: Sequence[str]
    samples: Sequence[Sample]
    losses: Sequence[tuple[int, float]]
    files: Sequence[ReportFile]
    settings: Mapping[str, Value]
    stage_seconds: Mapping[str, float]
    provenance: Mapping[str, str]  # what it is -> digest or version
    contact_sheet: bool = field(default=False)  # the user's pictures themselves, only when asked for


def write_report(report: Report, to: Path) -> None:
    """At most 5 MB, with smaller pictures when need be."""
    for side_px in SIDES_PX:
        page = render(report, side_px)
        if len(page.encode()) <= MAX_BYTES:
            break
    to.write_text(page, encoding="utf-8")


def render(report: Report, side_px: int = SIDES_PX[0]) -> str:
    pictures = _Encoder(side_px)
    body = [
        f"<h1>{escape(report.name)}</h1><p class=lead>{escape(summary(report))}</p>",
        *(_subject(report, subject, pictures) for subject in report.subjects),
        _section("Files", _files(report.files)),
        _section("Samples", _samples(report, pictures)),
        _section("Loss", loss_svg(report.losses)),
        _section("Settings", _table(("field", "value", "why"), _settings(report.settings))),
        *(
            _section(f"Pictures of {s.token}", _pictures(s.pictures, report.contact_sheet, pictures))
            for s in report.subjects
        ),
        _section("Time", _table(("stage", "seconds"), ((k, f"{v:.1f}") for k, v in report.stage_seconds.items()))),
        _section("Provenance", _table(("what", "digest or version"), report.provenance.items(), code=1)),
    ]
    title = f"<title>{escape(report.name)}: training report</title></head>"
    return f"{HEAD}{title}<body><main>{''.join(body)}</main></body></html>\n"


def summary(report: Report) -> str:
    """What was done, in one sentence of measured numbers."""
    pictures = sum(len(s.pictures.pictures) for s in report.subjects)
    words = ", ".join(f"{s.token} ({s.class_name})" for s in report.subjects)
    said = f"Learned {words} with {report.method} from {pictures} picture{'s' * (pictures != 1)}"
    if "train" in report.stage_seconds and report.losses:
        said += f" in {report.losses[-1][0]} steps, {_duration(report.stage_seconds['train'])} of training"
    if len(report.losses) >= 20:
        window = mean_window(len(report.losses))
        mean = moving_mean([loss for _, loss in report.losses], window)
        said += (
            f". Mean loss of the first tenth of the training {mean[window - 1]:.3g}, of the last tenth {mean[-1]:.3g}"
        )
    return said + "."


class _Encoder:
    """Pictures as WebP data URIs; small ones keep their pixels and are enlarged by the browser."""

    def __init__(self, side_px: int) -> None:
        self.side_px = side_px

    def img(self, source: Path | Image.Image, alt: str) -> str:
        if isinstance(source, Path):
            with Image.open(source) as opened:
                image = opened.convert("RGB")
        else:
            image = source
        small = max(image.size) <= self.side_px // 2
        image.thumbnail((self.side_px, self.side_px), Image.Resampling.LANCZOS)
        data = io.BytesIO()
        image.save(data, "WEBP", lossless=small, quality=80)
        uri = "data:image/webp;base64," + base64.b64encode(data.getvalue()).decode()
        return f'<img{" class=pixels" if small else ""} src="{uri}" alt="{escape(alt)}">'


def _subject(report: Report, subject: ReportSubject, pictures: _Encoder) -> str:
    pair = [s for s in report.samples if report.prompts[s.prompt] == subject.prompt]
    ends = {min(s.step for s in pair), max(s.step for s in pair)} if pair else set()
    figures = "".join(
        f"<figure>{pictures.img(s.path, f'{subject.prompt}, at step {s.step}')}"
        f"<figcaption>{'before' if s.step == min(ends) else 'after'} (step {s.step})</figcaption></figure>"
        for s in sorted(pair, key=lambda s: s.step)
        if s.step in ends
    )
    return (
        f"<section><div class=pair>{figures}</div><p>Trigger word <code>{escape(subject.token)}</code></p>"
        f"<p>Prompt to start from <code>{escape(subject.prompt)}</code></p></section>"
    )


def _files(files: Sequence[ReportFile]) -> str:
    rows = ((f.path, f.use, _size(f.size_bytes), f.sha256) for f in files)
    return _table(("file", "for", "size", "SHA-256"), rows, code=3)


def _samples(report: Report, pictures: _Encoder) -> str:
    """A row per prompt, so that a phone scrolls along the steps of one prompt."""
    steps = spread(sorted({s.step for s in report.samples}), MOST_STEPS_SHOWN)
    cells = {(s.step, s.prompt): s for s in report.samples if s.step in steps}
    if not cells:
        return "<p>No sample was drawn.</p>"
    rows = []
    for number, prompt in enumerate(report.prompts):
        row = [
            f"<figure>{pictures.img(cells[step, number].path, f'{prompt}, at step {step}')}"
            f"<figcaption>step {step}</figcaption></figure>"
            for step in steps
            if (step, number) in cells
        ]
        rows.append(f"<h3>{escape(prompt)}</h3><div class=strip>{''.join(row)}</div>")
    return f"<p>Each row is one prompt with one seed; only the training differs.</p>{''.join(rows)}"


def spread(steps: Sequence[int], most: int) -> list[int]:
    """At most so many of them, evenly, the first and the last among them."""
    if len(steps) <= most:
        return list(steps)
    return [steps[round(i * (len(steps) - 1) / (most - 1))] for i in range(most)]


def _settings(settings: Mapping[str, Value]) -> Iterable[tuple[str, str, str]]:
    return ((name, str(setting.value), setting.reason) for name, setting in settings.items())


def _pictures(found: SubjectPictures, contact_sheet: bool, pictures: _Encoder) -> str:
    notes = "".join(f"<li>{escape(note)}</li>" for note in found.notes)
    sheet = "".join(
        f"<figure>{pictures.img(Image.fromarray(p.pixels), f'image {p.index} as it was trained on')}"
        f"<figcaption>{p.index}</figcaption></figure>"
        for p in found.pictures
        if contact_sheet
    )
    rows = (
        (str(p.index), p.base_name, f"{p.width_px}x{p.height_px}", _box(p), "; ".join(p.notes)) for p in found.pictures
    )
    table = _table(("#", "name", "size in px", "crop", "notes"), rows)
    return f"<ul>{notes}</ul>{table}" + (f"<div class=strip>{sheet}</div>" if sheet else "")


def _box(picture: Picture) -> str:
    left, top, right, bottom = picture.crop_box
    whole = (right - left, bottom - top) == (picture.width_px, picture.height_px)
    return "whole" if whole else f"{right - left}x{bottom - top} at {left},{top}"


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]], code: int | None = None) -> str:
    """`code` is the column in which digests stand."""
    head = "".join(f"<th scope=col>{escape(cell)}</th>" for cell in header)
    body = "".join(
        "<tr>" + "".join(f"<td>{_cell(cell, column == code)}</td>" for column, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f"<div class=wide><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _cell(text: str, code: bool) -> str:
    return f"<code>{escape(text)}</code>" if code else escape(text)


def _size(size_bytes: int) -> str:
    return (
        f"{size_bytes / 1e6:.1f}\N{NO-BREAK SPACE}MB"
        if size_bytes >= 100_000
        else f"{size_bytes / 1e3:.1f}\N{NO-BREAK SPACE}kB"
    )


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.1f} min" if seconds >= 120 else f"{seconds:.0f} s"
