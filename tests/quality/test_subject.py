"""DreamBooth works: the job's own loop teaches the toy base a subject, and the base keeps what it knew.

The thresholds stand well below the worst of five trainings (docs/toyworld.md has the figures), so that another
processor's rounding does not fail them and a broken loop does. About two minutes a training on one core.
"""

from dataclasses import replace

import pytest

from tests.quality.teaching import RECIPES, judge, teach

pytestmark = pytest.mark.quality


@pytest.mark.parametrize("method", RECIPES)
def test_a_taught_subject_is_drawn_where_asked_and_the_class_is_kept(method: str) -> None:
    scores, _ = judge(teach("robot", RECIPES[method]), "robot")
    assert scores.subject > 0.75
    assert scores.subject_unseen_place > 0.5
    assert scores.place > 0.8
    assert scores.class_kept > 0.9
    assert scores.leaked < 0.3


def test_without_class_pictures_the_subject_takes_over_its_class() -> None:
    scores, _ = judge(teach("robot", replace(RECIPES["full"], class_weight=0)), "robot")
    assert scores.leaked > 0.4
