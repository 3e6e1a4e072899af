from __future__ import annotations

from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from dreambooth_job.config import Value
from dreambooth_job.data.duplicates import Fingerprint
from dreambooth_job.data.pictures import Picture, SubjectPictures
from dreambooth_job.journal import Sample
from dreambooth_job.report.grid import CELL_PX, STEP_LABEL_PX, fitted, grid, write_preview
from dreambooth_job.report.html import Report, ReportFile, ReportSubject, render, spread, summary, write_report
from dreambooth_job.report.loss_curve import loss_svg, moving_mean

PROMPTS = ("a photo of a sks <dog>", "a photo of a <dog>")
COLOURS = {0: (200, 0, 0), 300: (0, 200, 0), 600: (0, 0, 200)}


@pytest.fixture
def samples(tmp_path: Path) -> list[Sample]:
    """Two prompts at three steps, each step of one colour."""
    made = []
    for step, colour in COLOURS.items():
        for prompt in range(2):
            path = tmp_path / f"{step}-{prompt}.png"
            Image.new("RGB", (64, 64), colour).save(path)
            made.append(Sample(step, prompt, path))
    return made


@pytest.fixture
def report(samples) -> Report:
    picture = Picture(
        1, "a&b.jpg", 96, 64, (0, 0, 64, 64), np.zeros((64, 64, 3), np.uint8), None, "", Fingerprint(0, 0), ("x < y",)
    )
    pictures = SubjectPictures((picture,), (), Counter(), ("ignored (1 x .mov)",))
    return Report(
        name="team/rex", method="lora", subjects=(ReportSubject("sks", "dog", PROMPTS[0], pictures),), prompts=PROMPTS,
        samples=samples, losses=[(step, 1.0 if step <= 300 else 0.5) for step in range(1, 601)],
        files=(ReportFile("run/rex.safetensors", 3_200_000, "ab" * 32, "A1111, ComfyUI"),),
        settings={"training.steps": Value(600, "100 per picture")}, stage_seconds={"fetch": 1.23, "train": 61.0},
        provenance={"base model": "cd" * 32},
    )  # fmt: skip


class Page(HTMLParser):
    """Collects tags and checks that each is closed where it must be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "path", "polyline"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_asks_nothing_from_outside(report):
    page = Page(render(report))
    assert page.open == []
    names = Counter(tag for tag, _ in page.tags)
    assert names["script"] == names["link"] == names["iframe"] == names["a"] == 0
    sources = [attrs["src"] for _, attrs in page.tags if "src" in attrs]
    assert len(sources) == 8
    assert all(source.startswith("data:image/webp;base64,") for source in sources)
    assert "url(" not in render(report)


def test_every_picture_has_an_alternative_text(report):
    alts = [attrs["alt"] for tag, attrs in Page(render(report)).tags if tag == "img"]
    assert "a photo of a sks <dog>, at step 600" in alts
    assert all(alts)


def test_words_of_the_user_are_escaped(report):
    page = render(report)
    assert "a photo of a sks &lt;dog&gt;" in page
    assert "a&amp;b.jpg" in page
    assert "x &lt; y" in page
    assert "<dog>" not in page


def test_the_facts_of_the_run_are_there(report):
    page = render(report)
    for fact in (
        "team/rex",
        "run/rex.safetensors",
        "3.2\u00a0MB",
        "ab" * 32,
        "100 per picture",
        "cd" * 32,
        "64x64 at 0,0",
    ):
        assert fact in page
    assert "before</figcaption>" not in page
    assert page.index("before (step 0)") < page.index("after (step 600)")


def test_the_summary_states_measured_numbers_only(report):
    assert summary(report) == (
        "Learned sks (dog) with lora from 1 picture in 600 steps, 61 s of training. "
        "Mean loss of the first tenth of the training 1, of the last tenth 0.5."
    )


def test_the_users_pictures_are_shown_only_when_asked_for(report):
    assert "as it was trained on" not in render(report)
    asked = Report(**{**report.__dict__, "contact_sheet": True})
    assert "image 1 as it was trained on" in render(asked)


def test_a_run_with_nothing_to_show_still_has_a_report(report):
    empty = Report(**{**report.__dict__, "samples": [], "losses": [], "files": [], "stage_seconds": {}})
    page = render(empty)
    assert Page(page).open == []
    assert "No sample was drawn." in page
    assert "no loss recorded" in page


def test_a_large_run_stays_under_five_megabytes(report, tmp_path):
    noise = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)).save(noise)
    prompts = [f"prompt {i}" for i in range(16)]
    many = [Sample(step, i, noise) for step in range(0, 4001, 200) for i in range(16)]
    to = tmp_path / "report.html"
    write_report(Report(**{**report.__dict__, "prompts": prompts, "samples": many}), to)
    assert 100_000 < to.stat().st_size <= 5_000_000
    assert "step 4000" in to.read_text()


def test_steps_are_thinned_evenly_with_both_ends():
    assert spread([0, 1, 2], 8) == [0, 1, 2]
    assert spread(list(range(101)), 5) == [0, 25, 50, 75, 100]


def test_the_grid_has_a_row_per_step_with_step_0_first(samples):
    sheet = grid(list(reversed(samples)), PROMPTS)
    rows = [sheet.getpixel((STEP_LABEL_PX + 9, sheet.height - 9 - (CELL_PX + 8) * (2 - i))) for i in range(3)]
    assert rows == list(COLOURS.values())


def test_before_and_after_are_the_grid_of_two_steps(samples):
    sheet = grid(samples, PROMPTS, steps=(0, 600))
    assert sheet.getpixel((sheet.width - 9, sheet.height - 9)) == COLOURS[600]
    assert COLOURS[300] not in [colour for _, colour in sheet.getcolors(100_000)]


def test_a_small_picture_is_enlarged_by_a_whole_factor(tmp_path):
    pattern = np.random.default_rng(0).integers(0, 256, (60, 60, 3), dtype=np.uint8)
    Image.fromarray(pattern).save(tmp_path / "a.png")
    assert np.array_equal(np.asarray(fitted(tmp_path / "a.png", 256)), pattern.repeat(4, 0).repeat(4, 1))
    assert max(fitted(tmp_path / "a.png", 30).size) == 30


def test_the_preview_carries_its_prompt_and_nothing_else(samples, tmp_path):
    write_preview(samples[-1].path, "a photo of a sks dog", tmp_path / "preview.png")
    with Image.open(tmp_path / "preview.png") as preview:
        assert preview.size == (512, 512)
        assert preview.info == {"parameters": "a photo of a sks dog"}


def numbers(svg: str) -> list[tuple[float, float]]:
    lines = [e.attrib["points"] for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("polyline")]
    return [tuple(float(n) for n in point.split(",")) for point in lines[-1].split()]


def test_a_falling_loss_falls_in_the_picture():
    points = numbers(loss_svg([(step, 1 / step) for step in range(1, 200)]))
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert [y for _, y in points] == sorted(y for _, y in points)


def test_a_long_run_makes_a_small_file():
    assert len(loss_svg([(step, 0.1 + step % 7) for step in range(1, 50_000)])) < 60_000


@pytest.mark.parametrize("losses", [[], [(1, float("nan"))], [(1, 0.0)], [(5, 0.2)], [(1, 0.1), (2, float("inf"))]])
def test_odd_losses_are_drawn_all_the_same(losses):
    svg = loss_svg(losses)
    ElementTree.fromstring(svg)
    assert "nan" not in svg
    assert "inf" not in svg


def test_the_moving_mean_looks_back_only():
    assert moving_mean([1, 2, 3, 4], 2) == [1, 1.5, 2.5, 3.5]
