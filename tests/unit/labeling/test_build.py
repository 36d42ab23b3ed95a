"""What a build may make again, what it refuses, and where its files are."""

import json
import shutil
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from labeling.backends.load import load_tagger
from labeling.build import LocalTaskRunner, build, finish_part, label_part, refuse_stale, with_absolute_paths
from labeling.config import DownloadConfig, LabelingConfig, NounConfig
from labeling.download.image_shards import images_stamp
from labeling.download.work_files import add_former_stamp
from labeling.errors import BadInput, ShardCorrupt, ShardStale, StageFailed
from labeling.execution.record import record_run
from labeling.sdd.schema import Caption, Image, LedgerRow, Nouns
from labeling.sdd.shards import ShardStore
from labeling.stages.nouns import NounStage
from labeling.steps import Step, chain_stages, steps_of
from labeling.weights import weights_id
from tests.datasets import NEXT, dataset_of_two
from tests.factories import SHARD, downloaded, image, labelled
from tests.faulty_stage import FaultyConfig, FaultyStage


def config_of(root, **download) -> LabelingConfig:
    return LabelingConfig(root=str(root), download=DownloadConfig(**download))


def moody_steps() -> list[Step]:
    return chain_stages([(FaultyStage(FaultyConfig()), "")])


def test_a_shard_that_gained_images_is_labelled_again(tmp_path):
    """`retry_failed` gives images/ another stamp, which is no reason to refuse."""
    store = downloaded(tmp_path, [image(1, url="good 1")])
    (step,) = moody_steps()
    label_part(config_of(tmp_path), step, [SHARD], "run")
    gained = [image(n, url=f"good {n}") for n in (1, 2)]
    store.write_outcomes("images", SHARD, gained, Image, "with more images", replace=True)
    with pytest.raises(StageFailed, match=r"labeling\.stale=rebuild"):
        label_part(config_of(tmp_path), step, [SHARD], "run")
    (report,) = label_part(config_of(tmp_path, retry_failed=True), step, [SHARD], "run")
    assert (report.counts, report.reused) == ({"kept": 2}, False)


def test_a_shard_that_gained_images_is_finished_again(tmp_path):
    store = labelled(tmp_path)
    steps = chain_stages([(stage_named(layer), "") for layer in ("captions", "nouns", "detections", "entities")])
    store.write("ledger", SHARD, [], LedgerRow, "of fewer images")
    with pytest.raises(StageFailed, match=r"labeling\.stale=rebuild"):
        finish_part(config_of(tmp_path), steps, [SHARD])
    finish_part(config_of(tmp_path, retry_failed=True), steps, [SHARD])
    assert len(list(ShardStore(str(tmp_path)).read(LedgerRow, ["ledger"], SHARD))) == 12


def test_a_run_that_tried_failed_urls_again_and_was_killed_is_told_how_to_go_on(tmp_path):
    store = downloaded(tmp_path, [image(1, url="good 1")])
    (step,) = moody_steps()
    plain, trying = config_of(tmp_path), config_of(tmp_path, retry_failed=True)
    begin = images_stamp(plain.download, store, SHARD)
    store.write_outcomes("images", SHARD, [image(1, url="good 1")], Image, f"{begin}-one", replace=True)
    label_part(plain, step, [SHARD], "run")
    add_former_stamp(store, SHARD, f"{begin}-one")
    gained = [image(n, url=f"good {n}") for n in (1, 2)]
    store.write_outcomes("images", SHARD, gained, Image, f"{begin}-two", replace=True)
    with pytest.raises(ShardStale, match=r"Resume it with --set labeling\.download\.retry_failed=true"):
        refuse_stale(plain, [step], [SHARD])
    refuse_stale(trying, [step], [SHARD])
    with pytest.raises(ShardStale, match=r"made under other settings: images/ \(1 shards\), captions/"):
        refuse_stale(config_of(tmp_path, min_side_px=7), [step], [SHARD])


def test_a_dataset_from_before_stop_lists_is_resumed_without_them(tmp_path):
    store = labelled(tmp_path)
    former = NounConfig(stop_words=(), stop_phrases=(), singular=False, renamed={})
    before, today = (
        chain_stages([(stage_named("captions"), ""), (NounStage(n, load_tagger), "w")]) for n in (former, NounConfig())
    )
    begin = images_stamp(DownloadConfig(), store, SHARD)
    stamps = {"images": f"{begin}-one", "captions": before[0].stamp(f"{begin}-one")}
    stamps["nouns"] = before[1].stamp(stamps["captions"])
    for layer, row in (("images", Image), ("captions", Caption), ("nouns", Nouns)):
        store.write_outcomes(layer, SHARD, [], row, stamps[layer], replace=True)
    refuse_stale(config_of(tmp_path), before, [SHARD])
    with pytest.raises(ShardStale, match=r"before nouns had stop lists. Resume it with --set .*stop_words=\[\]"):
        refuse_stale(config_of(tmp_path), today, [SHARD])
    with pytest.raises(ShardStale, match=r"made under other settings: images/ \(1 shards\)"):
        refuse_stale(config_of(tmp_path, min_side_px=7), today, [SHARD])


def test_a_file_of_images_that_was_moved_away_is_no_change_of_settings(tmp_path):
    store = downloaded(tmp_path, [image(1, url="good 1")])
    (step,) = moody_steps()
    label_part(config_of(tmp_path), step, [SHARD], "run")
    store.path("images", SHARD).unlink()
    refuse_stale(config_of(tmp_path), [step], [SHARD])


def stage_named(layer):
    return type("Named", (FaultyStage,), {"name": layer})(FaultyConfig())


NETWORKS = {
    "caption": {"checkpoint": "nets/blip2"},
    "nouns": {"pipeline": "nets/spacy"},
    "detect": {
        "backend": "groundingdino",
        "checkpoint": "nets/dino.pth",
        "package_config": "nets/dino.py",
        "text_encoder": "nets/bert",
    },
    "segment": {"checkpoint": "nets/sam"},
}


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    """The working directory, with weights in it."""
    monkeypatch.chdir(tmp_path)
    for path in ("blip2/a", "spacy/a", "dino.pth", "dino.py", "bert/a", "sam/a"):
        file = tmp_path / "nets" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(path)
    return tmp_path


def test_paths_mean_the_same_in_every_working_directory(here):
    config = LabelingConfig(root="out/sdd", urls="list.csv", **NETWORKS)
    absolute = with_absolute_paths(config)
    assert (absolute.root, absolute.urls) == (f"{here}/out/sdd", f"{here}/list.csv")
    for table, values in NETWORKS.items():
        paths = {name: f"{here}/{value}" for name, value in values.items() if "/" in value}
        assert paths.items() <= getattr(absolute, table).model_dump().items()
    assert with_absolute_paths(absolute) == absolute


def test_where_weights_lie_is_in_no_stamp(here):
    config = LabelingConfig(root="out/sdd", **NETWORKS)
    before = [step.identity for step in steps_of(config)]
    assert [step.identity for step in steps_of(with_absolute_paths(config))] == before
    (here / "nets/sam/a").rename(here / "nets/sam/b")
    weights_id.cache_clear()
    after = [step.identity for step in steps_of(with_absolute_paths(config))]
    assert [a == b for a, b in zip(after, before, strict=True)] == [True, True, True, False]


@pytest.mark.parametrize("urls", ["s3://bucket/urls", ("s3://bucket/urls",), None])
def test_what_is_not_on_this_machine_is_named_as_before(urls):
    config = LabelingConfig(root="s3://bucket/sdd", urls=urls)
    assert with_absolute_paths(config) == config


@pytest.mark.usefixtures("here")
def test_a_build_begins_with_it(tmp_path):
    with pytest.raises(BadInput, match=f"{tmp_path}/nowhere.csv"):
        build(LabelingConfig(root="out/sdd", urls="nowhere.csv", **NETWORKS), LocalTaskRunner())


def records(root: Path) -> list[dict[str, Any]]:
    return [json.loads(file.read_text()) for file in root.glob("runs/*.json")]


@pytest.fixture
def closed_port(here) -> LabelingConfig:
    """Settings for a list of one URL, whose server is not there."""
    (here / "list.csv").write_text("URL\nhttp://127.0.0.1:1/a.jpg\n")
    return LabelingConfig(root="sdd", urls="list.csv", **NETWORKS)


class Calls:
    """Runs the calls at once, up to the one whose name begins with `fails`."""

    def __init__(self, fails: str) -> None:
        self.fails = fails

    def submit(self, name, function, *args):
        done: Future[Any] = Future()
        if name.startswith(self.fails):
            done.set_exception(StageFailed(f"{name} failed"))
        else:
            done.set_result(function(*args))
        return done


def test_a_failed_run_is_on_record_with_its_weights(closed_port, here):
    with pytest.raises(StageFailed, match="download, part 1 failed"):
        build(closed_port, Calls("download"))
    (record,) = records(here / "sdd")
    assert record["state"] == "failed"
    assert record["stages"] == {step.stage.name: step.identity for step in steps_of(with_absolute_paths(closed_port))}


def test_a_record_holds_no_credentials(here):
    urls = "https://user:5ec4e7@host/list.csv?X-Amz-Signature=5ec4e7"
    with record_run(LabelingConfig(root="sdd", urls=urls, **NETWORKS), [], shards=1):
        pass
    (record,) = records(here / "sdd")
    assert record["settings"]["urls"] == "https://***@host/list.csv?X-Amz-Signature=***"
    assert "5ec4e7" not in str(record)


@pytest.mark.parametrize(
    "name",
    [
        "sdd/x.parquet",
        "sdd/shard-00099.parquet",
        "confirmations/x.parquet",
        "embeddings/x.parquet",
        "similar/x.parquet",
    ],
)
def test_a_foreign_file_is_named_before_any_work(closed_port, here, name):
    (here / "sdd" / name).parent.mkdir(parents=True)
    (here / "sdd" / name).write_text("not ours")
    with pytest.raises(ShardCorrupt, match=f"{here}/sdd/{name} is not a shard of this dataset"):
        build(closed_port, Calls("download"))
    assert records(here / "sdd") == []


def test_what_is_refused_leaves_no_record(closed_port, here):
    with pytest.raises(StageFailed):
        build(closed_port, Calls("download"))
    (here / "list.csv").write_text("URL\nhttp://127.0.0.1:1/other.jpg\n")
    with pytest.raises(ShardStale):
        build(closed_port, Calls("download"))
    assert len(records(here / "sdd")) == 1


@pytest.mark.parametrize("layer", ["urls", "images", "entities", "ledger"])
@pytest.mark.parametrize("shard", [SHARD, NEXT])
def test_a_file_of_another_dataset_is_named_and_nothing_advises_to_rebuild(tmp_path, layer, shard):
    root, other = dataset_of_two(tmp_path / "sdd"), dataset_of_two(tmp_path / "other", "another list")
    shutil.copy(other / layer / f"{shard}.parquet", root / layer)
    with pytest.raises(
        ShardCorrupt, match=f"^{root}/{layer}/{shard}.parquet is of the dataset another list, .* of list"
    ):
        refuse_stale(config_of(root), moody_steps(), [SHARD, NEXT])


def test_a_product_of_another_dataset_is_named_as_such(tmp_path):
    root, other = dataset_of_two(tmp_path / "sdd"), dataset_of_two(tmp_path / "other", "another list")
    shutil.copy(other / "sdd" / f"{NEXT}.parquet", root / "sdd")
    with pytest.raises(
        ShardCorrupt, match=f"^{root}/sdd/{NEXT}.parquet is of the dataset another list, this one is list"
    ):
        ShardStore(str(root)).has("sdd", NEXT, "the stamp of this run")
