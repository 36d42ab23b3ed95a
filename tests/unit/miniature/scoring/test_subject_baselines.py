"""Pictures that show something of a subject, and no model made."""

from collections import Counter

import numpy as np

from miniature.scoring.cases import COUNT, cases, known
from miniature.scoring.exam import Asked
from miniature.scoring.subject_baselines import DRAWN, mean_colour, named_by_class_word, outline_alone, pasted_reference


def test_pictures_differ_from_the_scene_where_their_subjects_are() -> None:
    for case in list(cases(2))[:3]:
        wanted = np.any([one.place for one in case.subjects], axis=0)
        inside, outside = (whole.reshape(64, 2, 64, 2).all((1, 3)) for whole in (wanted, ~wanted))
        scene = case.shown.image.astype(int)
        for draw in (mean_colour, pasted_reference):
            apart = np.abs(draw(case) - scene).max(axis=2)
            assert apart[inside].mean() > 20
        assert np.abs(mean_colour(case) - scene).max(axis=2)[outside].max() <= 1
        assert (outline_alone(case)[inside] == 255).all()
        assert (outline_alone(case)[outside] == 0).all()


def test_a_pasted_reference_lies_within_its_box() -> None:
    (case, *_) = cases(1)
    (one,) = case.subjects
    box = case.shown.box(0)
    apart = np.abs(pasted_reference(case).astype(int) - mean_colour(case)).max(axis=2)
    rows, columns = np.nonzero(apart > 8)
    assert box.x0 - 1 <= columns.min() <= columns.max() <= box.x1
    assert box.y0 - 1 <= rows.min() <= rows.max() <= box.y1
    colour = one.image[one.mask].mean(axis=0)
    (ys, xs) = (round((low + high) / 2) for low, high in ((box.y0, box.y1), (box.x0, box.x1)))
    assert np.abs(pasted_reference(case)[ys - 8 : ys + 8, xs - 8 : xs + 8].mean((0, 1)) - colour).max() < 60


def test_the_oracle_finds_one_thing_of_each_class() -> None:
    asked = list(cases(1))
    classes = Counter(sprite.class_word for sprite in known(Asked.HELD_OUT)[:COUNT])
    assert sum(hit for (hit,) in named_by_class_word(asked, Asked.HELD_OUT)) == len(classes) == 33


def test_each_baseline_draws_a_picture() -> None:
    (case, *_) = cases(1)
    assert {draw(case).shape for draw in DRAWN.values()} == {(64, 64, 3)}
