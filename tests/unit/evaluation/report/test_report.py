import re
from pathlib import Path

import pytest

from evaluation.errors import EvaluationError, InvalidProtocol
from evaluation.protocol_catalog import DREAMBOOTH, ONE_IMAGE, PROTOCOLS
from evaluation.report.choices import choices_table
from evaluation.report.comparison import comparison_report
from evaluation.report.report import evaluation_report, write_report
from infra.report.document import Table
from infra.report.markdown import to_markdown
from tests.unit.evaluation.report.evaluations import evaluation, header

SCORES = {"DINO": [0.6, 0.8, 0.2, 0.4], "CLIP-I": [0.8] * 4, "CLIP-T": [0.3] * 4, "DINO copy": [0.1] * 4}
PHOTOS = {"cat": (Path("cat.png"),), "dog": (Path("dog.png"),)}
INPUTS = {"cat": 0, "dog": 0}


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=PROTOCOLS)
def test_every_choice_of_a_protocol_is_in_its_table(protocol) -> None:
    text = " ".join(" ".join(row) for row in choices_table(header(protocol=protocol)).rows)
    for spec in (*protocol.subject_encoders, *filter(None, [protocol.prompt_encoder])):
        for value in (spec.weights, spec.architecture, spec.activation, spec.dtype, spec.interpolation, spec.crop_px):
            assert str(value) in text
    for value in (protocol.name, protocol.source, protocol.average, *protocol.notes):
        assert value in text
    assert protocol.comparison.replace("_", " ") in text
    assert f"Factor on CLIP-T {protocol.text_scale:g}" in text


def test_a_report_has_a_section_for_each_protocol_and_none_for_both() -> None:
    both = [evaluation(SCORES), evaluation({"DINO": [1.0] * 4}, protocol=ONE_IMAGE)]
    report = evaluation_report(both, PHOTOS, INPUTS)
    assert [section.title for section in report.sections] == [
        "Protocol: DreamBooth",
        "Protocol: One image (Kosmos-G)",
        "Images",
    ]
    for section, protocol in zip(report.sections, (DREAMBOOTH, ONE_IMAGE), strict=False):
        (scores,) = [
            block for block in section.blocks if isinstance(block, Table) and "by the protocol" in block.caption
        ]
        assert f"“{protocol.name}”" in scores.caption


def test_means_by_kind_of_prompt_and_by_subject() -> None:
    text = to_markdown(evaluation_report([evaluation(SCORES)], PHOTOS, INPUTS))
    assert "| attribute | 2 | 0.300 (0.300 to 0.300) |" in text
    assert "| place | 2 | 0.700 (0.700 to 0.700) |" in text
    assert "| cat | 0.700 | 0.620 to 0.780 |" in text
    assert "0.010 for ordinary photos, 0.230 for copies of the input" in text


def test_images_without_a_score_are_named() -> None:
    partial = evaluation({"DINO": [0.6, None, 0.2, 0.4]}, unscored={"cat/00/1": "missing"})
    text = to_markdown(evaluation_report([partial], PHOTOS, INPUTS))
    assert "Without a score of their own: 1 of 4 images" in text
    assert "| cat/00/1 | missing |" in text


def test_a_comparison_tests_each_metric_and_refuses_other_protocols() -> None:
    better = evaluation({**SCORES, "DINO": [0.7, 0.9, 0.3, 0.5], "DINO copy": [0.0] * 4}, "Better")
    text = to_markdown(comparison_report([[evaluation(SCORES)], [better]]))
    assert "| DINO | 0.500 | 0.600 | +0.100 (+0.100 to +0.100) | 0.5000 | 2 | Better |" in text
    assert "| DINO copy | 0.100 | 0.000 | -0.100 (-0.100 to -0.100) | 0.5000 | 2 | Better |" in text
    assert "| CLIP-T | 0.300 | 0.300 | +0.000 (+0.000 to +0.000) | 1.0000 | 2 | undecided |" in text
    with pytest.raises(InvalidProtocol, match="no protocol is common"):
        comparison_report([[evaluation(SCORES)], [evaluation(SCORES, "Other", ONE_IMAGE)]])
    with pytest.raises(EvaluationError, match="in one alone: dog"):
        comparison_report([[evaluation(SCORES)], [evaluation({**SCORES, "DINO": [0.5, 0.5, None, None]}, "Other")]])


def test_html_needs_nothing_from_outside(tmp_path: Path) -> None:
    _, page = write_report(evaluation_report([evaluation(SCORES)], PHOTOS, INPUTS), tmp_path)
    sources = re.findall(r'(?:src|href)="([^"]*)"|url\(([^)]*)\)', page.read_text())
    assert [one for pair in sources for one in pair if one and not one.startswith("data:")] == []
    assert "<script" not in page.read_text()
