"""Face identity: the first face counts, no face is None, and a reference without one is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from evaluation.embeddings import Unreadable
from evaluation.encoders.check import check_facenet
from evaluation.encoders.face import FacenetEncoder, embed_faces, embed_reference_face, load_facenet, mtcnn
from evaluation.errors import EncoderWeightsError, ImagesError

facenet = pytest.importorskip("facenet_pytorch", reason="an optional package, docs/guide/weights.md")


def squares(image: Image.Image) -> Tensor | None:
    """Detect the red square, then the green one: a detector that needs no weights."""
    pixels = np.asarray(image)
    channels = [channel for channel in (0, 1) if (pixels[..., channel] == 255).any()]
    return torch.stack([crop(pixels, channel) for channel in channels]) if channels else None


def crop(pixels: NDArray[np.uint8], channel: int) -> Tensor:
    rows, columns = np.nonzero(pixels[..., channel] == 255)
    square = Image.fromarray(pixels[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1])
    return torch.from_numpy(np.array(square.resize((160, 160)))).permute(2, 0, 1) / 127.5 - 1


def picture(*channels: int) -> NDArray[np.uint8]:
    """Return a picture with a square of each channel."""
    pixels = np.full((60, 90, 3), 40, np.uint8)
    for channel in channels:
        pixels[10:40, 10 + 40 * channel : 30 + 40 * channel, channel] = 255
    return pixels


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights as the published file holds them, with the classifier."""
    torch.manual_seed(0)
    network = facenet.InceptionResnetV1(classify=True, num_classes=7)
    path: Path = tmp_path_factory.mktemp("facenet") / "vggface2.pt"
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def encoder(weights: Path) -> FacenetEncoder:
    network = facenet.InceptionResnetV1().eval()
    network.load_state_dict(torch.load(weights), strict=False)
    return FacenetEncoder(squares, network, "random")


def test_the_first_face_counts(encoder: FacenetEncoder) -> None:
    red, both, green = (encoder.embed_face(picture(*channels)) for channels in ((0,), (0, 1), (1,)))
    assert red is not None
    assert both is not None
    assert green is not None
    assert red.shape == (512,)
    np.testing.assert_allclose(np.linalg.norm(red), 1, atol=1e-5)
    np.testing.assert_allclose(both, red, atol=1e-5)
    assert np.abs(green - red).max() > 1e-4


def test_an_image_without_a_face_is_none_and_a_bad_file_a_reason(tmp_path: Path, encoder: FacenetEncoder) -> None:
    with_face, without, text = tmp_path / "face.png", tmp_path / "none.png", tmp_path / "text.png"
    Image.fromarray(picture(0)).save(with_face)
    Image.fromarray(picture()).save(without)
    text.write_text("no image")
    seen: list[tuple[int, int]] = []
    found = embed_faces(encoder, [with_face, without, text], lambda done, total: seen.append((done, total)))
    assert isinstance(found[with_face], np.ndarray)
    assert found[without] is None
    assert isinstance(found[text], Unreadable)
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_a_reference_without_a_face_is_refused(tmp_path: Path, encoder: FacenetEncoder) -> None:
    Image.fromarray(picture()).save(tmp_path / "none.png")
    with pytest.raises(ImagesError, match=r"none\.png: FaceNet .* finds no face in this reference"):
        embed_reference_face(encoder, tmp_path / "none.png")
    with pytest.raises(ImagesError, match=r"missing\.png is unreadable \(No such file"):
        embed_reference_face(encoder, tmp_path / "missing.png")


def test_the_weights_are_loaded_without_the_classifier(weights: Path, encoder: FacenetEncoder) -> None:
    loaded = FacenetEncoder(squares, load_facenet(str(weights))._network, "same")
    found, expected = (one.embed_face(picture(0)) for one in (loaded, encoder))
    assert found is not None
    assert expected is not None
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("size", [(19, 200), (64, 64), (200, 300)])
def test_mtcnn_finds_no_face_in_plain_pictures_of_any_size(weights: Path, size: tuple[int, int]) -> None:
    assert load_facenet(str(weights)).embed_face(np.full((*size, 3), 90, np.uint8)) is None


def test_mtcnn_has_fastcomposers_settings() -> None:
    found = vars(mtcnn())
    settings = {"image_size": 160, "margin": 0, "min_face_size": 20, "factor": 0.709, "keep_all": True}
    assert {name: found[name] for name in settings} == settings
    assert found["thresholds"] == [0.6, 0.7, 0.7]


def test_the_check_of_weights_knows_the_file(weights: Path, tmp_path: Path) -> None:
    assert check_facenet(str(weights)).fine
    torch.save({"conv2d_1a.conv.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "part.pt")
    part, missing = check_facenet(str(tmp_path / "part.pt")), check_facenet("nowhere.pt")
    assert "tensors are missing" in part.problems[0]
    assert missing.cure is not None
    assert missing.cure.command.endswith("20180402-114759-vggface2.pt")


def test_other_files_are_refused(tmp_path: Path) -> None:
    torch.save({"conv2d_1a.conv.weight": torch.zeros(32, 3, 3, 3)}, tmp_path / "part.pt")
    with pytest.raises(EncoderWeightsError, match=r"part\.pt: \d+ tensors are missing"):
        load_facenet(str(tmp_path / "part.pt"))
    with pytest.raises(EncoderWeightsError, match=r"nowhere\.pt is no file: download https://github"):
        load_facenet(str(tmp_path / "nowhere.pt"))
