"""MM Grounding DINO against the chain of transformers' own processor and network, on random weights."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GroundingDinoProcessor, MMGroundingDinoConfig, MMGroundingDinoForObjectDetection

from infra.weights.files import WeightsState
from labeling.backends.grounding_dino.huggingface import GroundingDinoHfDetector
from labeling.backends.grounding_dino.huggingface_check import check_hf_detector
from labeling.backends.load import load_detector
from labeling.config import DetectConfig, DetectorBackend, Device
from labeling.errors import BackendWeightsError
from labeling.stages.networks import DetectedBox
from miniature.networks import grounding_dino as miniature
from miniature.networks.vocabulary import detection_vocabulary
from tests.unit.labeling.backends.grounding_dino.test_backends import NOUNS, picture

MM = DetectorBackend.MM_GROUNDING_DINO
VOCABULARY = detection_vocabulary(NOUNS)
SIZES = miniature.Sizes(image_px=96, stem=16, channels=(16, 16, 32, 32), depths=(1, 1, 1, 1), width=64)
IMAGES = [picture(120, 80, 0), picture(90, 140, 1)]
LABELS = [["dog", "fire hydrant"], ["red ball", "tree", "cat"]]


def config(folder: Path, **others: object) -> DetectConfig:
    defaults = {"backend": MM, "checkpoint": str(folder), "device": Device.CPU, "box_threshold": 0.0, "nms_iou": 1.0}
    return DetectConfig.model_validate(defaults | others)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("mm")
    described = miniature.architecture(VOCABULARY, SIZES).to_dict()
    torch.manual_seed(0)
    names = MMGroundingDinoConfig().to_dict().keys() - {"model_type", "architectures"}
    net = MMGroundingDinoForObjectDetection(MMGroundingDinoConfig(**{k: described[k] for k in names if k in described}))
    miniature.spread_scores(net.eval())
    miniature.spread_boxes(net)
    net.save_pretrained(where)
    GroundingDinoProcessor(miniature.image_processor(SIZES), VOCABULARY.tokenizer()).save_pretrained(where)
    return where


def find(folder: Path, **settings: object) -> list[list[DetectedBox]]:
    detector = load_detector(config(folder, **settings))
    return detector.detect([detector.prepare(image) for image in IMAGES], LABELS)


@torch.inference_mode()
def test_boxes_and_scores_are_those_of_transformers_own_chain(folder: Path) -> None:
    net = MMGroundingDinoForObjectDetection.from_pretrained(folder).eval()
    processor = GroundingDinoProcessor.from_pretrained(folder)
    for image, labels, found in zip(IMAGES, LABELS, find(folder), strict=True):
        inputs = processor(images=image, text=[labels], return_tensors="pt")
        out, sizes = net(**inputs), [image.shape[:2]]
        delimiters = torch.isin(inputs["input_ids"], net.model.special_tokens)[0].nonzero()[:, 0]
        out.logits[..., delimiters] = -torch.inf  # transformers lets the delimiters vote, this project does not
        (theirs,) = processor.post_process_grounded_object_detection(out, threshold=0.0, target_sizes=sizes)
        order = theirs["scores"].argsort(descending=True)
        assert [f.score for f in found] == pytest.approx(theirs["scores"][order].tolist(), abs=1e-5)
        limits = torch.tensor([image.shape[1], image.shape[0]] * 2)
        clipped = theirs["boxes"][order].clamp(min=0).minimum(limits)
        np.testing.assert_allclose([f.box for f in found], clipped.numpy(), atol=1e-2)
        assert np.ptp([f.score for f in found]) > 1e-3
        assert np.ptp([f.box[2] - f.box[0] for f in found]) > 5


def test_a_label_of_its_own_threshold_finds_what_the_others_do_not(folder: Path) -> None:
    everything = find(folder)[0]
    dog = [box for box in everything if box.label_index == 0]
    assert 0 < len(dog) < len(everything)
    assert find(folder, box_threshold=1.0, label_thresholds={"dog": 0.0})[0] == dog


def test_weights_of_grounding_dino_are_refused() -> None:
    with pytest.raises(BackendWeightsError, match="holds a network of type 'grounding-dino'"):
        GroundingDinoHfDetector(config(Path("miniature/weights/grounding_dino")))


def test_the_check_knows_the_network(folder: Path, tmp_path: Path) -> None:
    assert check_hf_detector(config(folder)).state == WeightsState.FINE
    assert check_hf_detector(config(folder, backend=DetectorBackend.GROUNDING_DINO_HF)).state == WeightsState.OTHER
    shutil.copytree(folder, tmp_path / "net")
    (tmp_path / "net" / "model.safetensors").unlink()
    assert check_hf_detector(config(tmp_path / "net")).state == WeightsState.INCOMPLETE
