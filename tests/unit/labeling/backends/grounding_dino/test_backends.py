"""Both Grounding DINO backends: the package's own network with random weights, and the same weights in transformers.

The network is the package's smallest backbone (Swin T) with a short transformer and a small BERT; images are resized to
64 px instead of 800, which makes it a test of seconds.
"""

import json
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from groundingdino.datasets import transforms
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel

from infra.precision import Precision
from labeling.backends.grounding_dino import convert as grounding_dino_convert
from labeling.backends.grounding_dino import package as groundingdino_package
from labeling.backends.grounding_dino.convert import convert
from labeling.backends.grounding_dino.huggingface import GroundingDinoHfDetector
from labeling.backends.grounding_dino.package import (
    GroundingDinoPackageDetector,
    PhraseBert,
    build,
    package_config,
    text_encoder,
)
from labeling.backends.load import load_detector
from labeling.config import DetectConfig, DetectorBackend, Device
from labeling.errors import BackendWeightsError
from labeling.stages.detect import DetectStage
from labeling.stages.networks import DetectedBox
from miniature.networks.vocabulary import detection_vocabulary

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.cuda.amp.autocast:FutureWarning")

NOUNS = [
    "dog",
    "cat",
    "fire",
    "hydrant",
    "red",
    "ball",
    "tree",
    "car",
    "house",
    "bird",
    "boat",
    "chair",
    "apple",
    "star",
]
PAIRS = [f"{a} {b}" for a in NOUNS for b in NOUNS]
VOCABULARY = detection_vocabulary(NOUNS)
SHORT = "\nenc_layers = 1\ndec_layers = 2\nnum_queries = 30\ndim_feedforward = 128\n"

Backend = GroundingDinoHfDetector | GroundingDinoPackageDetector


def picture(width: int, height: int, seed: int) -> NDArray[np.uint8]:
    """Discs over a gradient, with noise."""
    rng = np.random.default_rng(seed)
    grey = np.linspace(0, 255, width)[None, :, None] * rng.random(3)
    image = Image.fromarray(np.broadcast_to(grey, (height, width, 3)).astype(np.uint8))
    for _ in range(5):
        x, y, r = rng.integers(0, width), rng.integers(0, height), rng.integers(10, 60)
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        ImageDraw.Draw(image).ellipse((x - r, y - r, x + r, y + r), fill=colour)
    return (np.asarray(image) * 0.9 + rng.integers(0, 25, (height, width, 3))).astype(np.uint8)


@torch.no_grad()
def randomise(net: torch.nn.Module) -> None:
    """Weights that the package starts at zero or near it, made to matter; boxes and scores of all sizes."""
    for name, weight in net.named_parameters():
        if "bbox_embed" in name and "layers.2." in name:
            weight.normal_(std=0.1)
            if name.endswith("bias"):
                weight[2:] = 1.0
        elif "gamma_" in name:
            weight.fill_(0.3)
        elif name.endswith(("sampling_offsets.weight", "attention_weights.weight")):
            weight.normal_(std=0.02)
        elif name.endswith(("enc_output_norm.weight", "decoder.norm.weight", "text_layers.0.norm2.weight")):
            weight.fill_(0.25)
        elif weight.ndim == 1:
            weight.add_(0.05 * torch.randn_like(weight))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """`net.pth` and `net.py` of the package, the text encoder `bert`, and all of it in transformers' layout as `hf`."""
    path = tmp_path_factory.mktemp("grounding")
    VOCABULARY.tokenizer().save_pretrained(path / "bert")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertConfig(vocab_size=len(VOCABULARY.tokens), **sizes).save_pretrained(path / "bert")
    (path / "net.py").write_text(Path(groundingdino_package.GroundingDINO_SwinT_OGC.__file__).read_text() + SHORT)
    torch.manual_seed(0)
    net = build(package_config(str(path / "net.py")), *text_encoder(str(path / "bert")))
    randomise(net)
    torch.save({"model": {f"module.{name}": weight for name, weight in net.state_dict().items()}}, path / "net.pth")
    with pytest.MonkeyPatch.context() as patch:
        for module in (groundingdino_package, grounding_dino_convert):
            patch.setattr(module, "PREPROCESSING", {"shortest_edge": 64, "longest_edge": 112})
        convert(str(path / "net.pth"), str(path / "net.py"), str(path / "bert"), path / "hf")
        yield path


def config(folder: Path, backend: DetectorBackend, **others: object) -> DetectConfig:
    hf = backend is DetectorBackend.GROUNDING_DINO_HF
    own = {"checkpoint": str(folder / ("hf" if hf else "net.pth")), "package_config": str(folder / "net.py")}
    defaults = {"text_encoder": str(folder / "bert"), "device": Device.CPU, "box_threshold": 0.1, "nms_iou": 0.9}
    return DetectConfig.model_validate({"backend": backend, **own, **defaults, **others})


def loaded(settings: DetectConfig) -> Backend:
    if settings.backend is DetectorBackend.GROUNDING_DINO_HF:
        return GroundingDinoHfDetector(settings)
    return GroundingDinoPackageDetector(settings)


@pytest.fixture(scope="module")
def detector(folder: Path) -> Callable[[DetectorBackend], Backend]:
    made: dict[DetectorBackend, Backend] = {}

    def of(backend: DetectorBackend) -> Backend:
        if backend not in made:
            made[backend] = loaded(config(folder, backend))
        return made[backend]

    return of


def assert_alike(found: list[DetectedBox], others: list[DetectedBox], side_px: int) -> None:
    """The same labels in the same order, scores within 1e-4, boxes within 1e-3 of the image's side."""
    assert [f.label_index for f in found] == [f.label_index for f in others]
    assert [f.score for f in found] == pytest.approx([f.score for f in others], abs=1e-4)
    boxes, other_boxes = np.array([f.box for f in found]), np.array([f.box for f in others])
    assert np.abs(boxes - other_boxes).max() < 1e-3 * side_px


BACKENDS = (DetectorBackend.GROUNDINGDINO, DetectorBackend.GROUNDING_DINO_HF)
BOTH = pytest.mark.parametrize("backend", BACKENDS)
IMAGES = [picture(500, 400, 0), picture(400, 500, 1), picture(500, 400, 2), picture(700, 300, 3), picture(500, 400, 4)]
LABELS = [["dog", "fire hydrant"], ["cat"], ["red ball", "tree", "car", "house bird"], NOUNS, ["boat"]]


def test_both_backends_agree_on_the_same_weights(detector: Callable[[DetectorBackend], Backend]) -> None:
    found = {}
    for backend in BACKENDS:
        net = detector(backend)
        found[backend] = net.detect([net.prepare(image) for image in IMAGES], LABELS)
    for one, other in zip(*found.values(), strict=True):
        assert len(one) > 5
        assert_alike(one, other, 700)
    everything = [f for boxes in found[DetectorBackend.GROUNDINGDINO] for f in boxes]
    assert len({f.label_index for f in everything}) > 5
    assert np.ptp([f.score for f in everything]) > 0.3
    assert np.ptp([f.box[2] - f.box[0] for f in everything]) > 100


@BOTH
def test_a_batch_gives_what_its_images_give_alone(
    backend: DetectorBackend, detector: Callable[[DetectorBackend], Backend]
) -> None:
    net = detector(backend)
    images = [net.prepare(image) for image in IMAGES]
    for image, labels, together in zip(images, LABELS, net.detect(images, LABELS), strict=True):
        (alone,) = net.detect([image], [labels])
        assert_alike(alone, together, 1)


@BOTH
def test_prompts_beyond_the_limit_lose_no_noun(
    backend: DetectorBackend, folder: Path, detector: Callable[[DetectorBackend], Backend]
) -> None:
    """A noun of a later prompt finds what it finds when it is asked for with the nouns of its prompt alone."""
    net = loaded(config(folder, backend, nms_iou=1.0))
    image = net.prepare(IMAGES[0])
    first, last = PAIRS[:84], PAIRS[84:104]  # 84 nouns of 3 tokens are what fits 256 with [CLS] and [SEP]
    (together,) = net.detect([image], [first + last])
    (alone,) = net.detect([image], [last])
    assert alone
    assert_alike(
        [DetectedBox(f.label_index - 84, f.score, f.box) for f in together if f.label_index >= 84], alone, side_px=1
    )


@BOTH
def test_the_same_noun_has_the_same_tokens_next_to_any_others(
    backend: DetectorBackend, detector: Callable[[DetectorBackend], Backend]
) -> None:
    """Labels point into the list that was given, in whatever order."""
    net = detector(backend)
    image = net.prepare(IMAGES[2])
    forward, backward = net.detect([image, image], [NOUNS, NOUNS[::-1]])
    assert_alike(forward, [DetectedBox(len(NOUNS) - 1 - f.label_index, f.score, f.box) for f in backward], side_px=1)


@BOTH
def test_bfloat16_is_close_to_float32(
    backend: DetectorBackend, folder: Path, detector: Callable[[DetectorBackend], Backend]
) -> None:
    net = loaded(config(folder, backend, precision=Precision.BFLOAT16))
    (low,) = net.detect([net.prepare(IMAGES[0])], [LABELS[0]])
    (full,) = detector(backend).detect([net.prepare(IMAGES[0])], [LABELS[0]])
    assert low
    assert low[0].score == pytest.approx(full[0].score, abs=0.1)
    assert low != full


@BOTH
def test_through_the_stage(backend: DetectorBackend, folder: Path) -> None:
    stage = DetectStage(config(folder, backend), load_detector)
    stage.setup()
    assert isinstance(stage.detector, GroundingDinoHfDetector) == (backend is DetectorBackend.GROUNDING_DINO_HF)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@BOTH
def test_cuda_gives_what_the_cpu_gives(
    backend: DetectorBackend, folder: Path, detector: Callable[[DetectorBackend], Backend]
) -> None:
    net = loaded(config(folder, backend, device=Device.CUDA))
    images = [net.prepare(image) for image in IMAGES]
    for found, expected in zip(net.detect(images, LABELS), detector(backend).detect(images, LABELS), strict=True):
        assert_alike(found, expected, 700)


def test_the_package_is_silent(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = GroundingDinoPackageDetector(config(folder, DetectorBackend.GROUNDINGDINO))
        net.detect([net.prepare(IMAGES[0])], [["dog"]])
    assert capfd.readouterr() == ("", "")


def test_images_are_prepared_as_by_the_package(folder: Path) -> None:
    theirs = transforms.Compose(
        [
            transforms.RandomResize([64], max_size=112),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    net = GroundingDinoPackageDetector(config(folder, DetectorBackend.GROUNDINGDINO))
    for image in IMAGES:
        ours, (expected, _) = net.prepare(image), theirs(Image.fromarray(image), None)
        assert (ours.height_px, ours.width_px) == image.shape[:2]
        assert (ours.pixels - expected).abs().max() < 1.1 / 255 / 0.224


def test_phrases_in_bert_do_not_see_each_other(folder: Path) -> None:
    tokenizer, settings = text_encoder(str(folder / "bert"))
    net = build(package_config(str(folder / "net.py")), tokenizer, settings)
    assert isinstance(net.bert, PhraseBert)
    ids, zeros = torch.tensor([[104, 105, 106, 107]]), torch.zeros(1, 4, dtype=torch.long)
    apart = torch.block_diag(torch.ones(2, 2), torch.ones(2, 2)).bool()[None]
    positions = torch.tensor([[0, 1, 0, 1]])
    with torch.inference_mode():
        together = net.bert.eval()(ids, zeros, positions, apart)["last_hidden_state"]
        alone = BertModel.forward(rebuilt(net.bert), input_ids=ids[:, 2:], position_ids=positions[:, 2:])
    assert torch.allclose(together[:, 2:], alone.last_hidden_state, atol=1e-5)


def rebuilt(bert: PhraseBert) -> BertModel:
    net = BertModel(bert.config).eval()
    net.load_state_dict(bert.state_dict())
    return net


def test_weights_that_only_training_needs_are_ignored(folder: Path, tmp_path: Path) -> None:
    content = torch.load(folder / "net.pth")
    content["model"]["label_enc.weight"] = torch.zeros(3, 3)
    torch.save(content, tmp_path / "net.pth")
    GroundingDinoPackageDetector(config(folder, DetectorBackend.GROUNDINGDINO, checkpoint=str(tmp_path / "net.pth")))


@pytest.mark.parametrize("load", [GroundingDinoPackageDetector, lambda c: convert_to(c, "unused")])
def test_missing_and_misshapen_weights_are_counted_and_named(
    load: Callable[[DetectConfig], object], folder: Path, tmp_path: Path
) -> None:
    content = torch.load(folder / "net.pth")
    del content["model"]["module.feat_map.bias"]
    content["model"]["module.feat_map.weight"] = torch.zeros(3, 3)
    torch.save(content, tmp_path / "net.pth")
    with pytest.raises(BackendWeightsError, match=r"2 of \d+ weights .*first .*(feat_map|text_projection)\.weight"):
        load(config(folder, DetectorBackend.GROUNDINGDINO, checkpoint=str(tmp_path / "net.pth")))


def convert_to(settings: DetectConfig, folder: str) -> None:
    convert(settings.checkpoint, settings.package_config, settings.text_encoder, folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is not a file"),
        (b"<html>404</html>", "is not a GroundingDINO checkpoint"),
        ({"state_dict": {}}, "is not a GroundingDINO checkpoint"),
        ({"model": {"head.weight": torch.zeros(1)}}, r"(\d+) of \1 weights are missing"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_named(content: object, message: str, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(BackendWeightsError, match=message) as error:
        GroundingDinoPackageDetector(config(folder, DetectorBackend.GROUNDINGDINO, checkpoint=str(path)))
    assert "labeling.detect.checkpoint" in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("source", ["backbone = (", "backbone = 'vit'", SHORT, "1 / 0"])
def test_a_file_that_is_no_configuration_is_named(source: str, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(source)
    with pytest.raises(BackendWeightsError, match=r"labeling\.detect\.package_config=.*net\.py"):
        GroundingDinoPackageDetector(
            config(folder, DetectorBackend.GROUNDINGDINO, package_config=str(tmp_path / "net.py"))
        )


def test_a_text_encoder_that_cannot_be_had_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendWeightsError, match=r"labeling\.detect\.text_encoder"):
        GroundingDinoPackageDetector(
            config(folder, DetectorBackend.GROUNDINGDINO, text_encoder=str(tmp_path / "nothing"))
        )


def test_a_setting_that_transformers_does_not_have_is_named(folder: Path, tmp_path: Path) -> None:
    source = (folder / "net.py").read_text() + "pe_temperatureW = 30\n"
    (tmp_path / "net.py").write_text(source)
    with pytest.raises(BackendWeightsError, match="transformers has no pe_temperatureW=30"):
        convert(str(folder / "net.pth"), str(tmp_path / "net.py"), str(folder / "bert"), tmp_path / "hf")


def test_a_folder_that_lacks_weights_is_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "hf", tmp_path / "hf")
    weights = load_file(tmp_path / "hf" / "model.safetensors")
    del weights["model.enc_output.bias"]
    save_file(weights, tmp_path / "hf" / "model.safetensors", {"format": "pt"})
    with pytest.raises(BackendWeightsError, match=r"lacks 1 weights .*first model\.enc_output\.bias"):
        GroundingDinoHfDetector(config(tmp_path, DetectorBackend.GROUNDING_DINO_HF))


def test_a_folder_of_another_network_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BackendWeightsError, match=r"labeling\.detect\.checkpoint="):
        GroundingDinoHfDetector(config(folder, DetectorBackend.GROUNDING_DINO_HF, checkpoint=str(folder / "bert")))
    with pytest.raises(BackendWeightsError, match="no such local folder"):
        GroundingDinoHfDetector(config(folder, DetectorBackend.GROUNDING_DINO_HF, checkpoint=str(tmp_path / "nothing")))


def test_folders_at_home_are_found(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder))
    loaded(config(folder, DetectorBackend.GROUNDING_DINO_HF, checkpoint="~/hf"))
    loaded(config(folder, DetectorBackend.GROUNDINGDINO, text_encoder="~/bert"))


def test_a_tokenizer_with_other_numbers_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "hf", tmp_path / "hf")
    tokenizer = json.loads((tmp_path / "hf" / "tokenizer.json").read_text())
    ids = tokenizer["model"]["vocab"]
    ids["."], ids["dog"] = ids["dog"], ids["."]
    (tmp_path / "hf" / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(BackendWeightsError, match="not of one checkpoint"):
        GroundingDinoHfDetector(config(tmp_path, DetectorBackend.GROUNDING_DINO_HF))
