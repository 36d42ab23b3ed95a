"""The defaults are the paper's; what contradicts itself is refused before anything runs."""

import importlib
import tomllib

import pytest

from flows.experiment import Experiment
from infra.config import CONFIGS, TABLES, Config, SettingsError, load
from labeling.config import (
    BoxRules,
    CaptionConfig,
    DetectConfig,
    DownloadConfig,
    LabelingConfig,
    NounConfig,
    RulesConfig,
    SegmentConfig,
    Stale,
)

FILES = sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.toml"))


def told(*overrides):
    with pytest.raises(SettingsError) as error:
        load(Experiment, None, ["labeling.root=out", *overrides])
    assert "\n" not in str(error.value)
    return str(error.value)


def test_the_rules_are_those_of_appendix_b_1():
    assert RulesConfig().model_dump() == {
        "min_aspect": 0.3,
        "max_aspect": 3.0,
        "min_box_share": 0.05,
        "max_box_share": 0.7,
        "max_iou": 0.8,
        "max_repeats": 5,
        "min_score": 0.2,
        "min_mask_fill": 0.6,
    }
    assert LabelingConfig(root="out").segment.floor == BoxRules()


def test_the_images_are_those_of_appendix_b_1():
    download = DownloadConfig()
    assert (download.min_side_px, download.min_aesthetic_score) == (1025, 5.0)


def test_what_the_paper_leaves_open_is_the_released_codes():
    assert (DetectConfig().box_threshold, DetectConfig().nms_iou) == (0.25, 0.5)
    assert "blip2" in CaptionConfig().checkpoint


@pytest.mark.parametrize(
    ("name", "looser"),
    [
        ("min_aspect", 0.2),
        ("max_aspect", 4.0),
        ("min_box_share", 0.04),
        ("max_box_share", 0.8),
        ("max_iou", 0.9),
        ("max_repeats", 6),
        ("min_score", 0.1),
    ],
)
def test_rules_looser_than_the_floor_are_refused_with_the_cure(name, looser):
    cure = f"labeling.segment.floor.{name}={looser}"
    message = told(f"labeling.rules.{name}={looser}")
    default = getattr(BoxRules(), name)
    for part in (f"labeling.rules.{name}={looser}", f"labeling.segment.floor.{name}={default}", cure, "`entities`"):
        assert part in message
    cured = load(Experiment, None, ["labeling.root=out", f"labeling.rules.{name}={looser}", cure])
    assert getattr(cured.labeling.rules, name) == looser


def test_rules_as_strict_as_the_floor_or_stricter_are_taken():
    strict = ["labeling.rules.min_score=0.3", "labeling.rules.max_repeats=1", "labeling.rules.min_mask_fill=0.1"]
    assert load(Experiment, None, ["labeling.root=out", *strict]).labeling.rules.min_score == 0.3


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("labeling.executor=slurm", ["labeling.executor", "'here' or 'ray'", "'slurm'"]),
        ("labeling.images_per_shard=0", ["labeling.images_per_shard", "greater than or equal to 1"]),
        ("labeling.rules.max_repeats=-1", ["labeling.rules.max_repeats", "greater than or equal to 1", "-1"]),
        ("labeling.rules.min_mask_fill=60", ["labeling.rules.min_mask_fill", "less than or equal to 1", "60"]),
        ("labeling.workers.entities.gpus=-1", ["labeling.workers.entities.gpus", "greater than or equal to 0", "-1"]),
        ("labeling.workers.captions.gpus=1.5", ["gpus=1.5", "a share of one GPU, or whole GPUs"]),
        ("labeling.workers.nouns.cpus=1e9", ["labeling.workers.nouns.cpus", "less than or equal to", "1000000000"]),
        ("labeling.workers.captions.count=2.5", ["labeling.workers.captions.count", "integer", "2.5"]),
        ("labeling.workers.caption.count=2", ["labeling.workers.caption:", "did you mean captions?"]),
        ("labeling.detect.box_threshold=1.5", ["labeling.detect.box_threshold", "1.5"]),
        ("labeling.rules.min_score=nan", ["labeling.rules.min_score", "finite"]),
        ("labeling.caption.precision=int8", ["labeling.caption.precision", "'float32' or 'bfloat16'"]),
    ],
)
def test_a_wrong_setting_is_named(override, parts):
    message = told(override)
    for part in parts:
        assert part in message


def test_the_root_is_needed():
    with pytest.raises(SettingsError, match=r"labeling\.root: is required"):
        load(Experiment, None, ["labeling.stale=rebuild"])


def test_how_hard_a_url_is_tried_does_not_make_images_stale():
    first = DownloadConfig()
    efforts = [{"timeout_s": 1.0}, {"rounds": 9}, {"backoff_s": 0.1}, {"max_wait_s": 1.0}, {"retry_failed": True}]
    for effort in (*efforts, {"host_failures": 1}, {"host_pause_s": 1.0}):
        assert DownloadConfig(**effort).fingerprint() == first.fingerprint()
    for choice in (
        {"min_side_px": 600},
        {"max_punsafe": None},
        {"respect_noai": False},
        {"max_bytes": 10},
        {"max_scans": 9},
    ):
        assert DownloadConfig(**choice).fingerprint() != first.fingerprint()


def test_datasets_that_were_begun_before_stay_valid():
    """Stamps hold these fingerprints. A new setting is left out of its fingerprint where it changes nothing."""
    before = {
        "caf27ad4fead": DownloadConfig(),
        "76d05ba8f712": CaptionConfig(),
        "f1d20c690ce6": NounConfig(stop_words=(), stop_phrases=(), singular=False, renamed={}),
        "f4ba3c6bf998": DetectConfig(),
        "e0ea57a73fca": SegmentConfig(),
        "904e1558b17d": RulesConfig(),
    }
    assert {config.fingerprint() for config in before.values()} == before.keys()


@pytest.mark.parametrize(
    "setting", [{"stop_words": ()}, {"stop_phrases": ()}, {"singular": False}, {"plural_words": ()}, {"renamed": {}}]
)
def test_other_lists_of_nouns_make_nouns_stale(setting):
    assert NounConfig(**setting).fingerprint() != NounConfig().fingerprint()


def test_files_of_other_settings_are_refused_unless_asked():
    assert LabelingConfig(root="out").stale is Stale.REFUSE


def table_class(table):
    """The settings class of a top-level table: `LabelingConfig` of labeling/config.py, and the miniature's world."""
    module = "miniature.world.serve" if table == "world" else f"{table}.config"
    return getattr(importlib.import_module(module), f"{table.capitalize()}Config")


@pytest.mark.parametrize("name", FILES)
def test_every_settings_file_loads(name):
    """Each table with its own class, as each entry point takes the tables it has fields for."""
    tree = tomllib.loads((CONFIGS / f"{name}.toml").read_text())
    assert set(tree) <= {*TABLES, "extends"}
    for table in tree.keys() & TABLES:
        entry = type("Entry", (Config,), {"__annotations__": {table: table_class(table)}})
        root = ["labeling.root=out"] if table == "labeling" else []
        assert getattr(load(entry, name, root), table) is not None


def test_there_are_settings_files():
    assert {"paper", "official", "demo"} <= set(FILES)


def test_a_prompt_with_the_images_own_mark_is_refused():
    assert "labeling.caption.prompt" in told('labeling.caption.prompt="<image> a photo of"')
