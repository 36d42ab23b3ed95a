"""Plans from recorded times: what grows with the list, what with its parts, and the sample of a pilot."""

import json
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from labeling.config import LabelingConfig, RulesConfig
from labeling.errors import LabelingError
from labeling.execution.record import record_run
from labeling.execution.report import ShardReport
from labeling.finish import FinishJob
from labeling.plan.estimate import estimate
from labeling.plan.measured import measure, settings_of
from labeling.plan.pilot import run_pilot
from labeling.plan.text import plan_record, plan_text
from labeling.sdd.schema import Confirmations
from labeling.sdd.shards import ShardStore
from tests.factories import SHARD, labelled

LAYERS = ("images", "captions", "nouns", "detections", "entities")
ROWS = {"images": 12, "captions": 10, "nouns": 9, "detections": 8, "entities": 7, "sdd": 12}
"""Rows of the files of `labelled`."""


@pytest.fixture
def pilot(tmp_path) -> str:
    """A finished dataset whose run took 2 s and 1 CPU-second per image, and 10 and 4 per start of a process."""
    root = tmp_path / "sdd"
    labelled(root)
    assert FinishJob(root=str(root), rules=RulesConfig(), layers=LAYERS).make(SHARD).error is None
    record_times(str(root), dict.fromkeys(ROWS, 1.0))
    return str(root)


def record_times(root: str, factors: Mapping[str, float], on_gpu: str = "") -> None:
    with record_run(config(root), [], shards=2) as record:
        for layer, rows in ROWS.items():
            halves = (rows // 2, rows - rows // 2)
            record.add(layer, [report(layer, half, factors[layer], layer == on_gpu) for half in halves])


def report(layer: str, rows: int, factor: float, on_gpu: bool) -> ShardReport:
    starts = 0 if layer == "sdd" else 1
    return ShardReport(
        stage=layer,
        shard="s",
        counts={"kept": rows},
        seconds=2.0 * rows * factor + 10.0 * starts,
        start_s=10.0 * starts,
        cpu_s=rows * factor,
        start_cpu_s=4.0 * starts,
        starts=starts,
        on_gpu=on_gpu,
    )


def config(root: str, **others) -> LabelingConfig:
    return LabelingConfig(root=root, images_per_shard=100, shards_per_part=10, **others)


def test_work_grows_with_images_and_starts_with_parts(pilot):
    one = estimate(measure(pilot), config(pilot), 1000)
    ten = estimate(measure(pilot), config(pilot), 10_000)
    captions = {plan.urls: next(s for s in plan.stages if s.stage == "captions") for plan in (one, ten)}
    assert captions[1000].images.value == pytest.approx(1000 * 10 / 12)
    assert captions[1000].wall_s.value == pytest.approx(2 * 1000 * 10 / 12 + 10)
    assert captions[1000].cpu_s.value == pytest.approx(1000 * 10 / 12 + 4)
    assert captions[10_000].cpu_s.value == pytest.approx(10 * captions[1000].cpu_s.value)
    images = next(stage for stage in one.stages if stage.stage == "images")
    assert images.cpu_s.value == pytest.approx(1000 + 4 * 10), "one start a shard"
    assert sum(stage.cpu_s.value for stage in one.stages) + one.other_cpu_s == pytest.approx(one.cpu_s.value)


def test_workers_divide_the_time_and_not_the_cpu_seconds(pilot):
    measured = measure(pilot)
    four = estimate(measured, config(pilot, workers={"captions": {"count": 4}}), 1000)
    one = estimate(measured, config(pilot), 1000)
    captions = [next(stage for stage in plan.stages if stage.stage == "captions") for plan in (four, one)]
    assert captions[0].wall_s.value == pytest.approx((2 * 1000 * 10 / 12 + 4 * 10) / 4)
    assert captions[0].cpu_s.value == pytest.approx(captions[1].cpu_s.value + 3 * 4)


def test_a_second_detector_is_counted_where_settings_ask_for_it(pilot):
    asked = config(pilot, confirm={"enabled": True})
    with pytest.raises(LabelingError, match="records the times of confirmations, for which the settings ask"):
        estimate(measure(pilot), asked, 1000)
    store = ShardStore(pilot)
    found = [Confirmations(key=k, confirmations=(), overlooked=()) for k in store.keys("entities", SHARD)[:6]]
    store.write_outcomes("confirmations", SHARD, found, Confirmations, "stamp")
    with record_run(asked, [], shards=2) as record:
        record.add("confirmations", [report("confirmations", 3, 1.0, on_gpu=False) for _ in range(2)])
    planned = estimate(measure(pilot), asked, 1000)
    assert [stage.stage for stage in planned.stages] == [*LAYERS, "confirmations", "sdd"]
    confirmations = planned.stages[-2]
    assert confirmations.images.value == pytest.approx(1000 * 6 / 12)
    assert confirmations.wall_s.value == pytest.approx(2 * 1000 * 6 / 12 + 10)
    assert [stage.stage for stage in estimate(measure(pilot), config(pilot), 1000).stages] == [*LAYERS, "sdd"]


def test_the_search_for_similar_images_is_named_as_not_counted(pilot):
    with record_run(config(pilot), [], shards=2) as record:
        record.add("embeddings", [report("embeddings", 5, 1.0, on_gpu=False) for _ in range(2)])
    planned = estimate(measure(pilot), config(pilot, clean={"near_duplicate_cosine": 0.95}), 1000)
    assert [stage.stage for stage in planned.stages] == [*LAYERS, "embeddings", "sdd"]
    assert "Not counted: similar, whose time" in plan_text(planned, None, None)
    assert "Not counted" not in plan_text(estimate(measure(pilot), config(pilot), 1000), None, None)


def test_storage_is_that_of_the_files(pilot, tmp_path):
    planned = estimate(measure(pilot), config(pilot), 12_000)
    for stage in planned.stages:
        layers = ("sdd", "ledger") if stage.stage == "sdd" else (stage.stage,)
        size = sum((tmp_path / "sdd" / layer / f"{SHARD}.parquet").stat().st_size for layer in layers)
        assert stage.storage.value == pytest.approx(1000 * size)


def test_a_gpu_costs_the_hours_of_its_workers(pilot, tmp_path):
    root = tmp_path / "second" / "sdd"
    labelled(root)
    assert FinishJob(root=str(root), rules=RulesConfig(), layers=LAYERS).make(SHARD).error is None
    record_times(str(root), dict.fromkeys(ROWS, 1.0) | {"detections": 5.0}, on_gpu="detections")
    planned = estimate(measure(str(root)), config(pilot), 1000)
    detections = next(stage for stage in planned.stages if stage.stage == "detections")
    assert planned.gpu_s.value == detections.gpu_s.value == pytest.approx(5 * 2 * 1000 * 8 / 12 + 10)
    assert planned.bottleneck == "detections"
    cost = planned.cost(0.5, 2.0).value
    assert cost == pytest.approx((0.5 * planned.cpu_s.value + 2.0 * planned.gpu_s.value) / 3600)
    text = plan_text(planned, 0.5, 2.0)
    assert "Bottleneck: detections" in text
    assert f"Cost at the prices given: {cost:.2g}" in text
    record = json.loads(json.dumps(plan_record(planned, 0.5, 2.0), allow_nan=False))
    assert record["cost"]["value"] == pytest.approx(cost)
    assert record["stages"][0]["storage"]["half_width"] is None, "one shard has no spread"


def test_a_dataset_without_recorded_times_is_refused(tmp_path):
    labelled(tmp_path / "sdd")
    with pytest.raises(LabelingError, match="no run in runs/ records the times of images, captions"):
        measure(str(tmp_path / "sdd"))
    with pytest.raises(LabelingError, match="no run is recorded"):
        settings_of(str(tmp_path / "sdd"))


def test_settings_are_those_of_the_last_run(pilot):
    assert settings_of(pilot) == config(pilot)


def test_a_pilot_builds_a_random_sample_of_the_list(tmp_path):
    urls = tmp_path / "urls.parquet"
    pq.write_table(pa.table({"URL": [f"https://example.com/{n}" for n in range(5000)], "TEXT": ["a"] * 5000}), urls)
    built: list[LabelingConfig] = []
    planned = LabelingConfig(root=str(tmp_path / "sdd"), urls=str(urls))
    root = run_pilot(planned, 200, built.append)
    assert root == str(tmp_path / "sdd.pilot-200" / "sdd") == built[0].root
    lists = [pq.read_table(path)["url"].to_pylist() for path in built[0].lists]
    assert [len(part) for part in lists] == [18, 22, 4, 36, 7, 33, 11, 29, 15, 25]
    numbers = [int(url.rpartition("/")[2]) for part in lists for url in part]
    assert len(set(numbers)) == 200
    assert 2000 < sum(numbers) / 200 < 3000
    assert 1500 < sum(numbers[:40]) / 40 < 3500, "each shard is a sample of its own"
    run_pilot(planned, 200, built.append)
    assert [pq.read_table(path)["url"].to_pylist() for path in built[1].lists] == lists, "it resumes"


def test_a_list_is_needed_for_a_pilot(tmp_path):
    with pytest.raises(LabelingError, match=r"labeling\.urls is not set"):
        run_pilot(LabelingConfig(root=str(tmp_path / "sdd")), 200, lambda _: None)
