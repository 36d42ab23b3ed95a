"""Rows of Table 3."""

import re

import pytest

from infra.config import find
from miniature.ablations.datasets import few_names
from miniature.ablations.rows import ROWS, RowName, model_changes
from miniature.world.names import labelled_names
from miniature.world.sprites import sprites


def test_the_run_has_all_rows_of_the_table_and_begins_with_the_full_model():
    assert sorted(RowName) == list(ROWS)
    assert next(iter(RowName)) is RowName.FULL


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.config])
def test_a_row_switches_off_one_part_of_the_model(name: RowName):
    (change,) = model_changes(ROWS[name]).items()
    assert change[0].startswith("use_")
    assert change[1] is False


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.config])
def test_the_paper_has_the_figures_that_the_settings_file_names(name: RowName):
    row = ROWS[name]
    said = re.search(r"\((\w)\).*DINO ([\d.]+) \(single\), ([\d.]+) \(two", find(row.config).read_text())
    assert said
    assert said.groups() == (name.value, f"{row.paper[1].dino:.3f}", f"{row.paper[2].dino:.3f}")


def test_the_few_classes_are_a_small_part_of_the_known_things():
    few = few_names()
    words = {sprite.name: sprite.class_word for sprite in sprites()}
    assert set(few) < set(labelled_names())
    assert len({words[name] for name in few}) * 10 == len({words[name] for name in labelled_names()})
