"""Audits in the report: proportions beside the paper's, and examples of each mark."""

from collections import Counter
from pathlib import Path

import pytest

from infra.report.document import AnnotatedGallery, Section, Table
from labeling.explorer.session import DatasetSession
from labeling.quality.marks import Audit, Mark
from labeling.quality.sample import draw_audit
from labeling.report.audits import audits_section
from labeling.report.report import dataset_report
from labeling.report.staging import staged
from tests.datasets import dataset_of_two

AT = "2026-11-30T12:00:00+00:00"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return dataset_of_two(tmp_path / "sdd")


@pytest.fixture
def audit(root: Path) -> Audit:
    """An audit of all 9 judged images, of which 5 are kept."""
    session = DatasetSession(str(root))
    return draw_audit(session.store, session, "first", 100, seed=0)


def section(root: Path, per_mark: int = 8) -> Section | None:
    with staged([str(root)], 256) as (dataset,):
        return audits_section(dataset, per_mark)


def parts(root: Path, per_mark: int = 8) -> tuple[dict[str, tuple[str, ...]], AnnotatedGallery | None]:
    """Return the rows of the table by class, and the gallery."""
    found = section(root, per_mark)
    assert found is not None
    table, *galleries = found.blocks
    assert isinstance(table, Table)
    gallery = galleries[0] if galleries else None
    assert gallery is None or isinstance(gallery, AnnotatedGallery)
    return {name: tuple(cells) for name, *cells in table.rows}, gallery


def mark_all(audit: Audit) -> None:
    for image in audit.images:
        audit.mark(image.key, Mark.HIGH_QUALITY if image.state == "kept" else Mark.WRONGLY_DROPPED, "me", AT)


def test_a_dataset_without_audits_has_no_section(root: Path) -> None:
    assert section(root) is None


def test_proportions_are_of_the_judged_images(root: Path, audit: Audit) -> None:
    mark_all(audit)
    rows, _ = parts(root)
    assert rows["high quality"][:2] == ("judged images", f"{5 / 9:.1%}")
    assert rows["low recall"][1] == "0.0%"
    assert rows["filtered by rules"] == ("judged images", f"{4 / 9:.1%}", "counted", "0", "48%")
    assert rows["wrongly dropped"][1] == "100.0%"
    assert rows["high quality"][3:] == ("5", "18%")


def test_an_audit_without_marks_says_so(root: Path, audit: Audit) -> None:
    rows, gallery = parts(root)
    assert gallery is None
    assert rows["high quality"][2] == "no mark yet"


def test_examples_of_each_mark_are_kept_and_dropped_images(root: Path, audit: Audit) -> None:
    mark_all(audit)
    _, gallery = parts(root, per_mark=2)
    assert gallery is not None
    marks = Counter(card.facets["mark"] for card in gallery.images)
    assert marks == {("high quality",): 2, ("wrongly dropped",): 2}
    kept = {image.key.hex() for image in audit.images if image.state == "kept"}
    for card in gallery.images:
        assert (card.picture.name in kept) is (card.facets["mark"] == ("high quality",))


def test_the_report_of_the_dataset_has_the_section(root: Path, audit: Audit) -> None:
    with staged([str(root)], 256) as (dataset,):
        titles = [one.title for one in dataset_report(dataset).sections]
    assert "Audits" in titles
