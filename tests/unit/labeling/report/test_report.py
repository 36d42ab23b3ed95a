"""The numbers of the report against sums over the rows, and its galleries and comparison on small datasets."""

import json
import re
import shutil
from collections import Counter
from html import unescape
from itertools import combinations
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow.parquet as pq
import pytest

from infra.report.document import AnnotatedGallery, Chart, Document, Paragraph, Table
from labeling.config import LabelingConfig, RulesConfig
from labeling.errors import LabelingError
from labeling.execution.record import record_run
from labeling.execution.report import ShardReport
from labeling.finish import FinishJob
from labeling.report.distributions import QUANTITIES
from labeling.report.report import ReportOptions, dataset_report, write_report
from labeling.report.runs import Prices
from labeling.report.samples import dropped_sample, kept_sample
from labeling.report.staging import staged
from labeling.sdd.schema import State
from tests.factories import DOG, FOUND, SHARD, image, labelled, refused
from tests.synthetic import synthetic_dataset

OLD = Path(__file__).parents[3] / "golden" / "sdd_version_1"
LAYERS = ("images", "captions", "nouns", "detections", "entities")
MEMORY_MB = 256
RULES = RulesConfig()


def report_of(root: Path, against: Path | None = None) -> Document:
    with staged([str(root), *([str(against)] if against else [])], MEMORY_MB) as datasets:
        return dataset_report(datasets[0], datasets[1] if against else None)


def tables(document: Document) -> dict[str, dict[str, tuple[str, ...]]]:
    """Rows of all tables by caption and first cell."""
    blocks = [block for section in document.sections for block in section.blocks]
    found = [block.table if isinstance(block, Chart) else block for block in blocks if isinstance(block, Chart | Table)]
    return {table.caption: {name: tuple(cells) for name, *cells in table.rows} for table in found}


def galleries(document: Document) -> list[AnnotatedGallery]:
    return [b for section in document.sections for b in section.blocks if isinstance(b, AnnotatedGallery)]


def number(text: str) -> int:
    return int(text.replace(",", ""))


def rows(root: Path, layer: str) -> list[dict]:
    return [row for file in sorted((root / layer).iterdir()) for row in pq.read_table(file).to_pylist()]


@pytest.fixture(scope="module")
def many(tmp_path_factory) -> Path:
    return synthetic_dataset(tmp_path_factory.mktemp("many"), 3000)


@pytest.fixture(scope="module")
def many_tables(many) -> dict[str, dict[str, tuple[str, ...]]]:
    return tables(report_of(many))


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    """A dataset with an image of every verdict."""
    root = tmp_path_factory.mktemp("few") / "sdd"
    labelled(root)
    return finish(root)


def finish(root: Path, rules: RulesConfig = RULES) -> Path:
    assert FinishJob(root=str(root), rules=rules, layers=LAYERS).make(SHARD).error is None
    return root


def test_sizes_and_verdicts_are_those_of_the_rows(many, many_tables):
    sdd, ledger = rows(many, "sdd"), rows(many, "ledger")
    entities = [entity for row in sdd for entity in row["entities"]]
    size = {name: cells[0] for name, cells in many_tables["Size"].items()}
    assert number(size["Input URLs with a verdict"]) == len(ledger) == 3000
    assert number(size["Images"]) == len(sdd)
    assert number(size["Entities"]) == len(entities)
    assert number(size["Labels"]) == len({entity["label"] for entity in entities})
    assert size["Words per caption"] == f"{sum(len(row['caption'].split()) for row in sdd) / len(sdd):.2f}"
    several = sum(len(row["entities"]) > 1 for row in sdd)
    assert size["Images with several entities"] == f"{several / len(sdd):.1%}"
    verdicts = Counter((row["stage"], row["state"], row["reason"] or "-") for row in ledger)
    shown = many_tables["URLs that are left after each stage"]
    lost = sum(count for (stage, *_), count in verdicts.items() if stage == "images")
    assert number(shown["after images/"][0].split()[0]) == len(ledger) - lost
    assert number(shown["after sdd/"][0].split()[0]) == len(sdd)
    broken = Counter(rule for row in ledger for candidate in row["candidates"] for rule in candidate["broken"])
    assert {
        rule: number(cells[0]) for rule, cells in many_tables["Rules of App. B.1 that candidate boxes break"].items()
    } == broken


def test_histograms_count_every_row(many, many_tables):
    sdd = rows(many, "sdd")
    words = Counter(min(len(row["caption"].split()), 30) for row in sdd)
    boxes = Counter(min(len(row["entities"]), 15) for row in sdd)
    for caption, counts in (("Words per caption", words), ("Boxes per image", boxes)):
        shown = {int(name.rstrip("+")): number(cells[0]) for name, cells in many_tables[caption].items()}
        assert {bin: count for bin, count in shown.items() if count} == counts
    scores = Counter(min(int(e["score"] * 24), 23) for row in sdd for e in row["entities"])
    shown = [number(cells[0]) for cells in many_tables["Score of the detector"].values()]
    assert shown == [scores[bin] for bin in range(24)]


@pytest.mark.parametrize("quantity", QUANTITIES, ids=lambda quantity: quantity.name)
def test_a_histogram_has_all_values(many, many_tables, quantity):
    sdd = rows(many, "sdd")
    total = len(sdd) if quantity.table == "{sdd}" else sum(len(row["entities"]) for row in sdd)
    assert sum(number(cells[0]) for cells in many_tables[quantity.name].values()) == total


def test_labels_and_pairs_are_counted(many, many_tables):
    sdd = rows(many, "sdd")
    entities = Counter(entity["label"] for row in sdd for entity in row["entities"])
    images = Counter(label for row in sdd for label in {entity["label"] for entity in row["entities"]})
    for label, cells in many_tables["The 30 most frequent labels"].items():
        assert (number(cells[0]), number(cells[1])) == (entities[label], images[label])
    frequent = {label for label, _ in sorted(entities.items(), key=lambda item: (-item[1], item[0]))[:200]}
    pairs = Counter(
        f"{first} and {second}"
        for row in sdd
        for first, second in combinations(sorted({e["label"] for e in row["entities"]} & frequent), 2)
    )
    shown = many_tables["The 30 most frequent pairs of the 200 most frequent labels"]
    assert {name: number(cells[0]) for name, cells in shown.items()} == {name: pairs[name] for name in shown}
    assert min(number(cells[0]) for cells in shown.values()) == sorted(pairs.values(), reverse=True)[29]


def test_link_rot_is_counted_by_reason_and_host(many, many_tables):
    failed = [row for row in rows(many, "ledger") if row["state"] == State.NOT_DOWNLOADED]
    reasons = Counter(row["reason"] for row in failed)
    shown = many_tables["URLs that were not downloaded, by reason; http_404 is the HTTP status 404"]
    assert {reason: number(cells[0]) for reason, cells in shown.items()} == reasons
    hosts = Counter(urlsplit(row["url"]).hostname for row in failed)
    shown = many_tables["The 25 hosts with most URLs that were not downloaded"]
    assert {host: number(cells[1]) for host, cells in shown.items()} == {host: hosts[host] for host in shown}
    assert max(hosts.values()) in [number(cells[1]) for cells in shown.values()]


def test_samples_have_a_fixed_seed_and_every_reason(many):
    with staged([str(many)], MEMORY_MB) as [dataset]:
        kept, dropped = kept_sample(dataset, 20), dropped_sample(dataset, 3)
        assert kept == kept_sample(dataset, 20)
    assert len({sample.key for sample in kept}) == 20
    assert {sample.shard for sample in kept} == {"shard-00000", "shard-00001", "shard-00002"}
    assert [sample.reason for sample in dropped] == ["small_box"] * 3


def test_galleries_show_entities_masks_and_broken_rules(few):
    kept, dropped = galleries(report_of(few))
    assert [one.facets["label"] for one in kept.images if one.picture.caption.endswith(" 2")] == [("cat", "dog")]
    assert all(one.picture.webp[8:12] == b"WEBP" for one in (*kept.images, *dropped.images))
    assert all(one.overlay.count("<path") == one.overlay.count("<rect") > 0 for one in kept.images)
    reasons = {one.facets["reason"][0]: one for one in dropped.images}
    assert reasons.keys() == {
        *("ValueError", "no_noun", "no_box", "crash", "aspect_ratio", "no_candidate", "no_mask", "thin_mask")
    }
    assert "thin_mask" in reasons["thin_mask"].overlay
    assert "stroke-dasharray" in reasons["thin_mask"].overlay
    assert reasons["no_noun"].overlay == ""


def test_an_image_that_cannot_be_decoded_is_shown_as_such(tmp_path):
    from labeling.sdd.schema import Image
    from labeling.sdd.shards import ShardStore

    store = labelled(tmp_path / "sdd", {1: (DOG,)}, {})
    store.write_outcomes("images", SHARD, [image(1, b"GIF8 and no more")], Image, "downloaded", replace=True)
    finish(tmp_path / "sdd")
    (kept,) = galleries(report_of(tmp_path / "sdd"))
    assert kept.images[0].picture.webp == b""
    assert "undecodable" in kept.images[0].picture.alt
    assert isinstance(store, ShardStore)


def test_a_dataset_of_sdd_alone_and_one_of_version_1_have_reports(few, tmp_path):
    shutil.copytree(few / "sdd", tmp_path / "alone" / "sdd")
    alone = report_of(tmp_path / "alone")
    assert tables(alone)["Size"]["Images"] == ("2",)
    assert Paragraph("This folder has no ledger, so verdicts are unknown.") in alone.sections[1].blocks
    shutil.copytree(OLD, tmp_path / "old", ignore=shutil.ignore_patterns("shard-00001.parquet"))
    assert tables(report_of(tmp_path / "old"))["Size"]["Images"] == ("2",)


def test_a_folder_without_a_finished_shard_is_refused(tmp_path):
    labelled(tmp_path / "sdd")
    with pytest.raises(LabelingError, match="has no finished shard"):
        report_of(tmp_path / "sdd")


def test_a_comparison_names_what_a_rule_gained_and_lost(few, tmp_path):
    labelled(tmp_path / "b", {**FOUND, 13: (DOG,)}, {**REFUSED_LATER})
    other = finish(tmp_path / "b", RulesConfig(min_mask_fill=0.3))
    document = report_of(few, other)
    shown = tables(document)
    counts = {name: number(cells[0]) for name, cells in shown["Images, by their keys"].items()}
    assert counts["Kept by both"] == 2
    assert counts["Gained: kept by this build alone"] == 0
    assert counts["Lost: kept by the other alone"] == 2
    assert shown["URLs whose verdict changed"]["kept"] == ("thin_mask (sdd)", "1")
    assert shown["The 1 labels whose number of entities changed most"]["dog"] == ("2", "4", "-2")
    lost = galleries(document)[0]
    assert {one.facets["verdict"] for one in lost.images} == {("thin_mask (sdd)",), ("not in its list",)}
    assert {one.facets["change"] for one in lost.images} == {("lost",)}


REFUSED_LATER = {7: ("images", refused(7, State.NOT_DOWNLOADED, "http_404"))}


def test_time_and_cost_are_those_of_the_runs(few, tmp_path):
    root = Path(shutil.copytree(few, tmp_path / "sdd"))
    with record_run(LabelingConfig(root=str(root)), [], shards=1) as record:
        made = {"seconds": 12.0, "start_s": 2.0, "cpu_s": 6.0, "start_cpu_s": 1.2, "starts": 1, "process_s": 3.0}
        record.add("captions", [ShardReport(stage="captions", shard=SHARD, counts={"kept": 50}, **made)])
    with staged([str(root)], MEMORY_MB) as [dataset]:
        document = dataset_report(dataset, options=ReportOptions(prices=Prices(cpu=100.0)))
    assert tables(document)["Time by stage"] == {
        "captions": ("12.0", "3.0", "0.0", "7.2", "0.0", "50", "5.00", "0.2000")
    }
    assert tables(document)["The last runs"][record.name][0] == "done"


def test_the_page_needs_nothing_from_outside_and_escapes_its_texts(few, tmp_path):
    file = tmp_path / "report.html"
    write_report(str(few), str(file), None, ReportOptions(memory_mb=MEMORY_MB))
    page = file.read_text()
    sources = [one for pair in re.findall(r'(?:src|href)="([^"]*)"|url\(([^)]*)\)', page) for one in pair if one]
    assert [one for one in sources if not one.startswith("data:")] == []
    facets = [json.loads(unescape(one)) for one in re.findall(r'data-facets="([^"]*)"', page)]
    assert {"label": ["cat", "dog"]} in facets
    assert "Words per caption: 100.0% of 2 images have 5 to 15" in page, 'of "a dog and a cat 1"'
    assert list(tmp_path.iterdir()) == [file]
