"""Pictures that show something of a subject, and no model made."""

from collections import Counter

import numpy as np

from miniature.scoring.cases import COUNT, cases, sprites_of
from miniature.scoring.score_options import SubjectSet
from miniature.scoring.subject_baselines import (
    BASELINES,
    class_word_hits,
    draw_filled_box,
    draw_mean_colour,
    draw_outline,
    paste_reference,
)


def test_pictures_differ_from_the_scene_where_their_subjects_are() -> None:
    for case in list(cases(2))[:3]:
        wanted = np.any([one.place for one in case.subjects], axis=0)
        inside, outside = (whole.reshape(64, 2, 64, 2).all((1, 3)) for whole in (wanted, ~wanted))
        scene = case.picture.image.astype(int)
        for draw in (draw_mean_colour, paste_reference):
            apart = np.abs(draw(case) - scene).max(axis=2)
            assert apart[inside].mean() > 20
        assert np.abs(draw_mean_colour(case) - scene).max(axis=2)[outside].max() <= 1
        assert (draw_outline(case)[inside] == 255).all()
        assert (draw_outline(case)[outside] == 0).all()


def test_a_pasted_reference_lies_within_its_box() -> None:
    (case, *_) = cases(1)
    (one,) = case.subjects
    box = case.picture.box(0)
    apart = np.abs(paste_reference(case).astype(int) - draw_mean_colour(case)).max(axis=2)
    rows, columns = np.nonzero(apart > 8)
    assert box.x0 - 1 <= columns.min() <= columns.max() <= box.x1
    assert box.y0 - 1 <= rows.min() <= rows.max() <= box.y1
    colour = one.image[one.mask].mean(axis=0)
    (ys, xs) = (round((low + high) / 2) for low, high in ((box.y0, box.y1), (box.x0, box.x1)))
    assert np.abs(paste_reference(case)[ys - 8 : ys + 8, xs - 8 : xs + 8].mean((0, 1)) - colour).max() < 60


def test_a_filled_box_is_in_the_mean_colour_and_hides_the_outline() -> None:
    (case, *_) = cases(1)
    (one,), box = case.subjects, case.picture.box(0)
    apart = np.abs(draw_filled_box(case) - one.image[one.mask].mean(axis=0)).max(axis=2)
    inside = np.s_[round(box.y0) + 1 : round(box.y1) - 1, round(box.x0) + 1 : round(box.x1) - 1]
    assert apart[inside].max() <= 1
    kept = np.abs(draw_filled_box(case).astype(int) - case.picture.image).max(axis=2) <= 1
    assert kept.sum() >= 64 * 64 - (box.x1 - box.x0 + 2) * (box.y1 - box.y0 + 2)


def test_the_oracle_finds_one_thing_of_each_class() -> None:
    asked = list(cases(1))
    classes = Counter(sprite.class_word for sprite in sprites_of(SubjectSet.HELD_OUT)[:COUNT])
    assert sum(hit for (hit,) in class_word_hits(asked, SubjectSet.HELD_OUT)) == len(classes) == 33


def test_each_baseline_draws_a_picture() -> None:
    (case, *_) = cases(1)
    assert {draw(case).shape for draw in BASELINES.values()} == {(64, 64, 3)}
