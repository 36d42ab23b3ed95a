"""A picture of a dataset shows its subjects where they are."""

import numpy as np
import pytest

from labeling.errors import LabelingError
from labeling.sdd.picture import CELL_PX, COLOURS, contact_sheet, read_sheet_rows
from tests.factories import entity, finished, jpeg, sdd_row


def test_a_subject_is_tinted_and_the_rest_is_not(tmp_path):
    row = sdd_row(1, [entity((8, 8, 32, 40))], jpeg(3))
    finished(tmp_path, [row])
    (found,) = read_sheet_rows(str(tmp_path), 12)
    marked, plain = (
        np.asarray(contact_sheet([shown_row], columns=1), int)
        for shown_row in (found, type(found)(caption=found.caption, entities=(), image=found.image))
    )
    changed = np.abs(marked - plain).max(axis=2) > 30
    scale = CELL_PX / 64
    rows, columns = np.nonzero(changed)
    for found_px, true in ((columns.min(), 8), (columns.max(), 32), (rows.min(), 8), (rows.max(), 40)):
        assert abs(found_px - scale * true) < 3 * scale  # resampling rings
    inside = changed[int(scale * 16) : int(scale * 36), int(scale * 12) : int(scale * 28)]
    assert inside.mean() > 0.5
    assert tuple(marked[int(scale * 24), int(scale * 8)]) == COLOURS[0]


def test_the_sheet_has_room_for_all_and_no_more(tmp_path):
    finished(tmp_path, [sdd_row(n, [entity((8, 8, 32, 40))]) for n in range(7)], rows_per_shard=3)
    found = read_sheet_rows(str(tmp_path), 5)
    assert len(found) == 5
    wide, tall = contact_sheet(found, columns=2).size
    assert (wide // CELL_PX, tall // CELL_PX) == (2, 3)


def test_a_sheet_is_no_wider_than_its_images(tmp_path):
    finished(tmp_path, [sdd_row(1, [entity((8, 8, 32, 40))])])
    found = read_sheet_rows(str(tmp_path), 1)
    assert contact_sheet(found, columns=100).size == contact_sheet(found, columns=1).size


def test_an_empty_dataset_is_said(tmp_path):
    with pytest.raises(LabelingError, match="holds no images"):
        read_sheet_rows(str(tmp_path), 3)


def test_a_damaged_image_is_named(tmp_path):
    finished(tmp_path, [sdd_row(1, [entity((8, 8, 32, 40))], jpeg(3)[:200])])
    with pytest.raises(LabelingError, match=r"the image of .* is damaged \(.*status --deep"):
        contact_sheet(read_sheet_rows(str(tmp_path), 1), columns=1)
