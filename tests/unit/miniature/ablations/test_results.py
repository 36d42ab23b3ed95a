"""Results of the ablations, and their table."""

from dataclasses import replace
from pathlib import Path

import pytest

from miniature.ablations.results import Result, read_result, read_results, result_path, table, write_result
from miniature.ablations.rows import RowName
from miniature.errors import AblationError

ROOT = Path(__file__).parents[4]


def scores(similarity: list[list[float]]) -> dict[str, list[list[float]]]:
    hits = [[float(value > 0.5) for value in case] for case in similarity]
    places = [[1.0] for _ in similarity]
    return {"similarity": similarity, "R@1": hits, "class word": hits, "background": places, "box IoU": similarity}


FULL = Result(
    row="a",
    seed=0,
    settings="0123456789ab",
    steps=3,
    images=5,
    identity_probe=None,
    scores={"1": scores([[0.6], [0.8]]), "2": scores([[0.6, 0.4], [0.2, 0.4]])},
)
WORSE = replace(FULL, row="e", scores={"1": scores([[0.4], [0.7]]), "2": scores([[0.6, 0.4], [0.2, 0.4]])})


def rows_of(text: str, subjects: int) -> dict[str, list[str]]:
    """Cells of each row by its letter."""
    lines = [line for line in text.split("\n\n")[2 * subjects - 1].splitlines() if line.startswith("| (")]
    return {line[3]: [cell.strip() for cell in line.strip("|").split("|")] for line in lines}


def test_a_result_is_read_as_it_was_written(tmp_path: Path):
    write_result(tmp_path, FULL)
    assert read_result(result_path(tmp_path, RowName.FULL, 0)) == FULL


def test_values_are_rounded_so_that_files_stay_small(tmp_path: Path):
    precise = replace(FULL, scores={"1": scores([[1 / 3]])})
    write_result(tmp_path, precise)
    assert read_result(result_path(tmp_path, RowName.FULL, 0)).scores["1"]["similarity"] == [[0.3333]]


@pytest.mark.parametrize("text", ["", "[]", '{"row": "a"}'])
def test_a_file_that_holds_no_result_is_named(tmp_path: Path, text: str):
    path = tmp_path / "a-seed0.json"
    path.write_text(text)
    with pytest.raises(AblationError, match=r"a-seed0\.json holds no result"):
        read_results(tmp_path)


def test_a_row_is_compared_with_the_full_model_case_by_case():
    one = rows_of(table([FULL, WORSE]), 1)
    assert one["a"][2].startswith(".700 (")
    assert one["a"][3:5] == ["", ""]
    assert one["e"][2].startswith(".550 (")
    assert one["e"][3] == "-.150 (-.200 to -.100)", "its two differences are -.2 and -.1, so its interval is narrow"
    assert one["e"][4] == "-.177", "0.534 - 0.711 of the paper"
    assert one["e"][5].startswith(".500 (")


def test_a_case_of_two_subjects_counts_both():
    two = rows_of(table([FULL, WORSE]), 2)
    assert two["a"][2].startswith(".400 (")
    assert two["e"][3] == "+.000 (+.000 to +.000)"
    assert two["a"][5].startswith(".250 (")


def test_only_seeds_that_both_have_are_compared():
    other = replace(FULL, seed=1, scores={"1": scores([[0.0], [0.0]]), "2": FULL.scores["2"]})
    one = rows_of(table([FULL, other, WORSE]), 1)
    assert one["a"][1:3] == ["0, 1", one["a"][2]]
    assert one["a"][2].startswith(".350 (")
    assert one["e"][3].startswith("-.150 ("), "against seed 0 alone"


def test_missing_rows_are_named():
    one = rows_of(table([WORSE]), 1)
    assert list(one) == list("abcdefg")
    assert [row for row, cells in one.items() if cells[1] == "missing"] == list("abcdfg")
    assert one["e"][3] == "", "there is nothing to compare with yet"
    assert one["c"][2:4] == ["", ""]
    assert one["c"][4] == "-.017"


def test_the_page_shows_the_committed_results():
    page = ROOT / "docs" / "benchmarks" / "ablations.md"
    assert table(read_results(page.with_suffix(""))) in page.read_text()
