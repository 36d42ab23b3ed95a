"""Stamps chain: a change makes stale what comes after it, and nothing before."""

import pytest

from labeling.config import LabelingConfig, RulesConfig
from labeling.errors import BackendWeightsError
from labeling.finish import finish_stamp
from labeling.sdd.schema import Image
from labeling.sdd.shards import ShardStore
from labeling.steps import chain_stages, expected_stamps, steps_of
from labeling.weights import weights_id
from tests.factories import SHARD, downloaded, image
from tests.faulty_stage import FaultyConfig, FaultyStage

LAYERS = ["images", "captions", "nouns", "detections", "entities"]


@pytest.fixture
def store(tmp_path):
    return downloaded(tmp_path, [image(1)])


def stamps(store, **settings):
    config = LabelingConfig(**{"root": "unused", **settings})
    found = expected_stamps(steps_of(config), store, SHARD)
    return {**found, "sdd": finish_stamp(config.rules, found["entities"])}


STALE = {
    # what is changed: the layers that this makes stale
    "nothing": ({}, []),
    "captioner": ({"caption": {"max_new_tokens": 41}}, ["captions", "nouns", "detections", "entities", "sdd"]),
    "tagger": ({"nouns": {"form": "chunk"}}, ["nouns", "detections", "entities", "sdd"]),
    "detector": ({"detect": {"box_threshold": 0.3}}, ["detections", "entities", "sdd"]),
    "weights": ({"detect": {"revision": "abc"}}, ["detections", "entities", "sdd"]),
    "segmenter": ({"segment": {"precision": "float32"}}, ["entities", "sdd"]),
    "floor": ({"segment": {"floor": {"min_score": 0.1}}}, ["entities", "sdd"]),
    "rules": ({"rules": {"min_score": 0.3}}, ["sdd"]),
    "workers": ({"workers": {"captions": {"count": 3, "batch_size": 7}}, "executor": "ray"}, []),
    "root and list": ({"root": "elsewhere", "urls": "list.csv", "stale": "rebuild", "shards_per_part": 2}, []),
}


@pytest.mark.parametrize("change", STALE)
def test_a_change_makes_stale_what_comes_after_it_and_nothing_else(store, change):
    settings, stale = STALE[change]
    before, after = stamps(store), stamps(store, **settings)
    assert [layer for layer in before if before[layer] != after[layer]] == stale


def test_other_images_make_all_later_files_stale(store):
    before = stamps(store)
    store.write_outcomes("images", SHARD, [image(2)], Image, "downloaded again", replace=True)
    after = stamps(store)
    assert [layer for layer in before if before[layer] != after[layer]] == [*LAYERS, "sdd"]


def test_before_the_download_nothing_is_expected(tmp_path):
    assert expected_stamps(steps_of(LabelingConfig(root="unused")), ShardStore(str(tmp_path)), SHARD) == {}


def test_each_stage_reads_all_layers_before_it():
    steps = steps_of(LabelingConfig(root="unused"))
    assert [step.stage.name for step in steps] == LAYERS[1:]
    assert [list(step.reads) for step in steps] == [LAYERS[:n] for n in range(1, 5)]


def test_a_stage_is_known_by_its_settings_and_its_weights():
    def identity(config, weights):
        (step,) = chain_stages([(FaultyStage(config), weights)])
        return step.identity

    first = identity(FaultyConfig(), "1")
    assert identity(FaultyConfig(), "1") == first
    assert identity(FaultyConfig(), "2") != first
    assert identity(FaultyConfig(memory_rows=3), "1") != first


def test_the_same_stamp_under_another_layer_is_another_stamp():
    (step,) = chain_stages([(FaultyStage(FaultyConfig()), "1")])
    assert step.stamp("parent") != step.stamp("other parent")
    assert finish_stamp(RulesConfig(), "parent") != step.stamp("parent")


MISSING = [
    ("caption.checkpoint", {"caption": {"checkpoint": "no/such/folder"}}),
    ("caption.checkpoint", {"caption": {"checkpoint": "/no"}}),
    ("caption.checkpoint", {"caption": {"checkpoint": "./no"}}),
    ("caption.checkpoint", {"caption": {"checkpoint": "~/no"}}),
    ("caption.checkpoint", {"caption": {"checkpoint": __file__}}),
    ("nouns.pipeline", {"nouns": {"pipeline": "en_core_web_sn"}}),
    ("detect.checkpoint", {"detect": {"checkpoint": "/no"}}),
    ("detect.checkpoint", {"detect": {"backend": "groundingdino"}}),
    ("detect.text_encoder", {"detect": {"backend": "groundingdino", "checkpoint": __file__, "text_encoder": "/no"}}),
    ("detect.package_config", {"detect": {"backend": "groundingdino", "checkpoint": __file__, "package_config": "no"}}),
    ("segment.checkpoint", {"segment": {"checkpoint": "/no"}}),
    ("segment.checkpoint", {"segment": {"backend": "segment_anything"}}),
]


@pytest.mark.parametrize(("setting", "settings"), MISSING)
def test_weights_that_are_not_there_are_refused_before_any_stage_runs(setting, settings):
    with pytest.raises(BackendWeightsError, match=rf"^labeling\.{setting}='[^']*' is (not|neither) "):
        steps_of(LabelingConfig(root="unused", **settings))


def test_a_score_below_the_detectors_own_threshold_is_told(caplog):
    floor = {"floor": {"min_score": 0.1}}
    steps_of(LabelingConfig(root="unused"))
    steps_of(LabelingConfig(root="unused", segment=floor, rules={"min_score": 0.3}))
    steps_of(LabelingConfig(root="unused", segment=floor, rules={"min_score": 0.1}, detect={"box_threshold": 0.1}))
    assert caplog.messages == [], "rule 5's 0.2 is the paper's, the detector's 0.25 that of its code"
    steps_of(LabelingConfig(root="unused", segment=floor, rules={"min_score": 0.1}))
    (message,) = caplog.messages
    assert "labeling.rules.min_score=0.1" in message
    assert "labeling.detect.box_threshold=0.1" in message


@pytest.mark.parametrize("name", ["checkpoint", "text_encoder", "package_config"])
def test_every_file_of_the_groundingdino_package_counts(store, tmp_path, name):
    (tmp_path / "bert").mkdir()
    files = {
        "checkpoint": tmp_path / "a.pth",
        "text_encoder": tmp_path / "bert" / "config.json",
        "package_config": tmp_path / "a.py",
    }
    for file in files.values():
        file.write_bytes(b"1")
    detect = {"backend": "groundingdino", **{n: str(f) for n, f in files.items()}, "text_encoder": f"{tmp_path}/bert"}
    before = stamps(store, detect=detect)
    files[name].write_bytes(b"2")
    weights_id.cache_clear()
    after = stamps(store, detect=detect)
    assert [layer for layer in before if before[layer] != after[layer]] == ["detections", "entities", "sdd"]
