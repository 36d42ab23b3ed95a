"""Images are removed from every layer, nothing else changes, and they do not come back."""

import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from labeling.build import finish_pending_removals
from labeling.config import LabelingConfig, RulesConfig
from labeling.download.lists.url_list import plan_urls
from labeling.download.lost_images import LostImages
from labeling.errors import BadInput, ImagesLost, LabelingError
from labeling.execution.record import record_run
from labeling.finish import FinishJob, stamp_of_settings
from labeling.quality.marks import Audit, AuditedImage, read_audit
from labeling.removal import find_rows, pending_removals, remove, urls_of_keys
from labeling.sdd.corrections import Correction, SeenEntity, read_review, write_corrections
from labeling.sdd.removed import Removal
from labeling.sdd.schema import Box, Image, Layer, LedgerRow, ListedUrl, SddRow
from labeling.sdd.shards import ShardStore
from labeling.source_index import ListedImage, SourceIndex, index_path
from labeling.validation.validate import Scope, validate
from tests.sound_dataset import LAYERS, ROWS_PER_SHARD, sound_dataset, url_of

FIRST, SECOND = "shard-00000", "shard-00001"
OLD = Path(__file__).parents[2] / "golden" / "sdd_version_1"


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    return sound_dataset(tmp_path_factory.mktemp("sound") / "sdd")


@pytest.fixture
def store(sound: Path, tmp_path: Path) -> ShardStore:
    return ShardStore(str(shutil.copytree(sound, tmp_path / "sdd")))


def removal(*urls: str, hosts: tuple[str, ...] = ()) -> Removal:
    return Removal(made_at="2026-11-30T12:00:00+00:00", urls=urls, hosts=hosts)


def faults(store: ShardStore) -> list[str]:
    *_, found = validate(str(store.root), Scope(), workers=1)
    return [str(fault) for fault in found.faults]


def files(store: ShardStore) -> Mapping[str, tuple[bytes, int]]:
    paths = [path for layer in Layer for path in Path(store.root.path, layer).glob("*.parquet")]
    return {f"{path.parent.name}/{path.stem}": (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def ledger(store: ShardStore) -> dict[str, tuple[str, str, str]]:
    rows = [row for shard in (FIRST, SECOND) for row in store.read(LedgerRow, (Layer.LEDGER,), shard)]
    assert Counter(row.list_row for row in rows) == Counter(range(11)), "every URL has one verdict"
    return {row.url: (row.stage, row.state, row.reason) for row in rows}


def test_an_image_leaves_every_layer_and_nothing_else_changes(store: ShardStore) -> None:
    before, verdicts = files(store), ledger(store)
    gone = next(row for row in store.read(Image, (Layer.IMAGES,), FIRST) if row.url == url_of(0))
    assert [(each.listed, each.kept) for each in remove(store, "first", removal(url_of(0)))] == [(1, 1), (0, 0)]
    assert faults(store) == []
    assert ledger(store) == verdicts | {url_of(0): ("images", "dropped", "removed")}
    after = files(store)
    assert {name for name in before if after[name] == before[name]} == {f"{layer}/{SECOND}" for layer in Layer}
    found = [name for name, (content, _) in after.items() if gone.key in content]
    assert sorted(found) == [f"{layer}/{FIRST}" for layer in ("images", "ledger", "urls")]
    assert not any(gone.image in content or b"text 0" in content for content, _ in after.values())


def test_keys_stand_for_all_rows_of_their_urls(store: ShardStore) -> None:
    (key,) = (row.key for row in store.read(SddRow, (Layer.SDD,), FIRST) if row.url == url_of(1))
    assert urls_of_keys(store, {key}) == {url_of(1)}
    removed = list(remove(store, "first", removal(*urls_of_keys(store, {key}))))
    assert [(each.shard, each.listed, each.kept) for each in removed] == [(FIRST, 1, 1), (SECOND, 1, 0)]
    assert ledger(store)[url_of(1)] == ("images", "dropped", "removed"), "the row that repeats the URL too"
    with pytest.raises(BadInput, match=f"lacks 1 of 2 keys, {bytes(16).hex()} first"):
        urls_of_keys(store, {key, bytes(16)})


def test_a_host_is_removed_whatever_became_of_its_urls(store: ShardStore) -> None:
    assert [(each.listed, each.kept) for each in find_rows(store, removal(hosts=("a.example",)).url_set)] == [
        (8, 2),
        (1, 0),
    ]
    list(remove(store, "first", removal(hosts=("a.example",))))
    assert faults(store) == []
    verdicts = ledger(store)
    assert {verdict for url, verdict in verdicts.items() if "//a." in url} == {("images", "dropped", "removed")}
    assert {verdict for url, verdict in verdicts.items() if "//b." in url} == {("sdd", "kept", "")}
    assert store.keys(Layer.SDD, FIRST) == []


def test_no_stage_runs_again_and_caches_become_stale(store: ShardStore) -> None:
    stamps = {layer: store.stamp(layer, FIRST) for layer in Layer}
    list(remove(store, "first", removal(url_of(0))))
    for layer in Layer:
        former, stamp = stamps[layer], store.stamp(layer, FIRST)
        assert former is not None
        assert stamp is not None
        assert stamp.parent == former.parent
        assert stamp_of_settings(stamp.stamp) == stamp_of_settings(former.stamp)
        assert (stamp.stamp == former.stamp) is (layer not in (Layer.SDD, Layer.LEDGER))
    before = files(store)
    job = FinishJob(root=str(store.root), rules=RulesConfig(), layers=LAYERS)
    assert all(job.make(shard).reused for shard in (FIRST, SECOND))
    assert files(store) == before
    strict = FinishJob(root=str(store.root), rules=RulesConfig(min_score=0.95), layers=LAYERS, replace=True)
    assert strict.make(FIRST).error is None
    assert job.expected_stamp(store, FIRST) != store.stamp(Layer.SDD, FIRST)
    assert faults(store) == []


def test_a_second_removal_adds_to_the_first(store: ShardStore) -> None:
    list(remove(store, "first", removal(url_of(0))))
    once = store.stamp(Layer.SDD, FIRST)
    assert [each.listed for each in remove(store, "second", removal(url_of(0), url_of(3)))] == [1, 0]
    twice = store.stamp(Layer.SDD, FIRST)
    assert once is not None
    assert twice is not None
    assert once.stamp != twice.stamp
    assert len(twice.stamp) == len(once.stamp)
    before = files(store)
    assert [each.listed for each in remove(store, "third", removal(url_of(3)))] == [0, 0]
    assert files(store) == before
    assert faults(store) == []


@pytest.mark.parametrize("layers_done", range(9))
def test_what_was_killed_is_finished_by_the_next_build(store: ShardStore, tmp_path: Path, layers_done: int) -> None:
    """A removal that ended between two layers: the files are those of one that ran to the end, as far as it came."""
    finished = ShardStore(str(shutil.copytree(str(store.root), tmp_path / "finished")))
    list(remove(finished, "first", removal(url_of(0), url_of(8))))
    expected = {name: content for name, (content, _) in files(finished).items()}
    shutil.copytree(str(finished.root / "removed"), str(store.root / "removed"))
    order = ("sdd", "ledger", "entities", "detections", "nouns", "captions", "urls", "images")
    for layer in order[:layers_done]:
        shutil.copy(str(finished.path(layer, FIRST)), str(store.path(layer, FIRST)))
    assert pending_removals(store) == ["first"]
    finish_pending_removals(store)
    assert {name: content for name, (content, _) in files(store).items()} == expected
    assert pending_removals(store) == []


def test_an_interrupt_leaves_the_rest_for_the_next_removal(store: ShardStore) -> None:
    begun = remove(store, "first", removal(url_of(0), url_of(8)))
    next(begun)
    begun.close()
    assert any("removed_rows" in fault for fault in faults(store))
    assert [each.listed for each in remove(store, "second", removal(url_of(9)))] == [0, 2]
    assert faults(store) == []


def test_a_list_that_is_planned_again_has_no_text_of_a_removed_image(store: ShardStore) -> None:
    list(remove(store, "first", removal(url_of(0))))
    before = store.stamp(Layer.URLS, FIRST)
    Path(store.path(Layer.URLS, FIRST).path).unlink()
    urls = f"{store.root}/list.csv"
    plan_urls(LabelingConfig(root=str(store.root), urls=urls, images_per_shard=ROWS_PER_SHARD))
    after = store.stamp(Layer.URLS, FIRST)
    assert before is not None
    assert after is not None
    assert before.stamp == after.stamp
    texts = {row.url: row.alt_text for row in store.read(ListedUrl, (Layer.URLS,), FIRST)}
    assert (texts[url_of(0)], texts[url_of(2)]) == (None, "text 2")


def test_corrections_of_a_removed_image_go_too(store: ShardStore) -> None:
    rows = [row for row in store.read(SddRow, (Layer.SDD,), FIRST) if row.url in (url_of(0), url_of(1))]
    made = [
        Correction(
            key=row.key,
            shard=FIRST,
            entity=SeenEntity(label="dog", box=Box(x0=0, y0=0, x1=20, y1=20)),
            action="removed",
            label=None,
            box=None,
            mask=None,
            author="somebody",
            made_at=None,
        )
        for row in rows
    ]
    write_corrections(store, "review", made)
    list(remove(store, "first", removal(url_of(0))))
    (left,) = read_review(store, "review")
    assert left.correction.key == next(row.key for row in rows if row.url == url_of(1))


def test_audits_lose_the_removed_images_and_keep_the_others(store: ShardStore) -> None:
    keys = {row.url: row.key for row in store.read(SddRow, (Layer.SDD,), FIRST)}
    row = {"shard": FIRST, "state": "kept", "stratum": "1", "stratum_images": 2}
    unmarked = {"mark": None, "author": None, "made_at": None}
    Audit(store, "first", [AuditedImage(key=key, **row, **unmarked) for key in keys.values()]).save()
    list(remove(store, "first", removal(url_of(0))))
    assert [image.key for image in read_audit(store, "first").images] == [keys[url_of(1)]]
    assert faults(store) == []


def test_the_index_of_an_import_loses_captions_and_labels(store: ShardStore) -> None:
    path = index_path(store.root)
    path.parent.mkdir(parents=True)
    with SourceIndex.open(path) as index:
        index.add_images(ListedImage(url_of(number), f"caption of {number}") for number in (0, 1))
        index.add_labels([(url_of(0), "label of 0"), (url_of(1), "label of 1")])
    list(remove(store, "first", removal(url_of(0))))
    index = SourceIndex.open_to_read(path)
    assert (index.count_images(), index.labels(url_of(0)), index.labels(url_of(1))) == (2, [], ["label of 1"])
    content = path.read_bytes()
    assert b"label of 1" in content
    assert b"caption of 1" in content
    assert b"label of 0" not in content
    assert b"caption of 0" not in content


def test_a_dataset_that_is_being_built_is_refused(store: ShardStore) -> None:
    with (
        record_run(LabelingConfig(root=str(store.root)), [], shards=2),
        pytest.raises(LabelingError, match="is being built by"),
    ):
        list(remove(store, "first", removal(url_of(0))))
    assert pending_removals(store) == []


def test_a_lost_file_of_images_is_not_taken_for_another(store: ShardStore) -> None:
    list(remove(store, "first", removal(url_of(0))))
    Path(store.path(Layer.IMAGES, FIRST).path).unlink()
    lost = LostImages.find(store, FIRST, "images stamp")
    assert lost is not None
    with pytest.raises(ImagesLost, match="cannot be compared with it, as images were removed from it"):
        lost.refuse_other_images("images stamp of today", {})


def test_a_copy_of_the_product_alone(store: ShardStore) -> None:
    for layer in (*tuple(Layer)[:6], "ledger"):
        shutil.rmtree(str(store.root / layer))
    assert [each.kept for each in remove(store, "first", removal(hosts=("b.example",)))] == [0, 2]
    assert store.keys(Layer.SDD, SECOND) == []
    assert len(store.keys(Layer.SDD, FIRST)) == 2


def test_a_dataset_of_version_1_keeps_its_version(tmp_path: Path) -> None:
    store = ShardStore(str(shutil.copytree(OLD, tmp_path / "old")))
    urls = [row.url for row in store.read(SddRow, (Layer.SDD,), FIRST)]
    assert sum(each.kept for each in remove(store, "first", removal(urls[0]))) == 1
    assert [row.url for row in store.read(SddRow, (Layer.SDD,), FIRST)] == urls[1:]
    assert {store.version(layer) for layer in Layer} == {1}
    rows = store.read(LedgerRow, (Layer.LEDGER,), FIRST)
    assert {row.url for row in rows if row.reason == "removed"} == {urls[0]}
