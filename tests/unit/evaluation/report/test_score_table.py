import pytest

from evaluation.benchmarks.published import published_rows
from evaluation.errors import InvalidProtocol
from evaluation.protocol_catalog import DREAMBOOTH, ONE_IMAGE
from evaluation.report.score_table import ScoreTable
from tests.unit.evaluation.report.evaluations import evaluation

SCORES = {"DINO": [0.6, 0.8, 0.2, 0.4], "CLIP-I": [0.8] * 4, "CLIP-T": [0.3] * 4, "DINO copy": [0.1] * 4}


def rows(table: ScoreTable) -> dict[str, tuple[str, ...]]:
    return {name: tuple(cells) for name, *cells in table.render().rows}


def test_our_scores_stand_beside_those_of_real_photos_and_publications() -> None:
    found = rows(ScoreTable.of([evaluation(SCORES)], published_rows("dreambench", "dreambooth")))
    assert found["Model"] == (
        "this evaluation",
        "0.500 (0.300 to 0.700)",
        "0.800 (0.800 to 0.800)",
        "0.300 (0.300 to 0.300)",
        "4 of 4",
    )
    assert found["Real photos"][1:] == ("0.774", "0.774", "", "")
    published = {row.method for row in published_rows("dreambench", "dreambooth")}
    assert published
    assert published <= found.keys()


def test_images_left_out_are_counted_beside_the_scores() -> None:
    partial = evaluation({"DINO": [0.6, None, 0.2, 0.4]}, unscored={"cat/00/1": "missing"})
    assert rows(ScoreTable.of([partial]))["Model"][-1] == "3 of 4"


def test_two_protocols_never_share_a_table() -> None:
    ours, other = evaluation(SCORES), evaluation(SCORES, "Other", ONE_IMAGE)
    with pytest.raises(InvalidProtocol, match="their protocols differ"):
        ScoreTable.of([ours, other])
    with pytest.raises(InvalidProtocol, match="no row for a table of dreambooth"):
        ScoreTable.of([ours], published_rows("dreambench", "subject-diffusion"))


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("benchmark_hash", "ffffffffffff", "benchmarks"),
        ("photos_hash", "ffffffffffff", "subjects' photos"),
        ("weights", {"DINO ViT-S/16": "cd" * 32, "CLIP ViT-B/32": "ab" * 32}, "encoders' weights"),
        ("protocol", DREAMBOOTH.model_copy(update={"text_scale": 2.5}), "protocols"),
    ],
)
def test_what_makes_scores_incomparable(field: str, value: object, named: str) -> None:
    with pytest.raises(InvalidProtocol, match=f"their {named} differ"):
        ScoreTable.of([evaluation(SCORES), evaluation(SCORES, "Other", **{field: value})])
