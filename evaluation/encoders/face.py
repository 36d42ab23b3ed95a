"""Identity of faces, as FastComposer measures it: the first face that MTCNN finds, embedded by InceptionResnetV1.

    faces = load_facenet("weights/20180402-114759-vggface2.pt")
    faces.embed_face(image)         # None if the image shows no face, which counts as similarity 0

facenet-pytorch 2.6 pins PyTorch below 2.3 and NumPy below 2, but runs with this project's versions when installed by
`pip install --no-deps facenet-pytorch==2.6.0`. Its package holds MTCNN's weights; those of InceptionResnetV1 are a
download. Source of the choices: mit-han-lab/fastcomposer evaluation/single_object/single_object_evaluation.py.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image as PillowImage
from torch import Tensor, nn

from evaluation.embeddings import Progress, Unreadable
from evaluation.encoders.checkpoint import Checkpoint, Tensors, floats, full_float32, read_tensors
from evaluation.encoders.encoder import Embedding, Image
from evaluation.encoders.preprocess import decode_image
from evaluation.errors import EncoderWeightsError, ImagesError
from labeling.sdd.pixels import UndecodableImage
from model.errors import ModelWeightsError
from model.weights.files import check_tensors

FaceDetector = Callable[[PillowImage.Image], Float[Tensor, "F 3 160 160"] | None]
"""Returns the faces of an image, cut out and scaled to -1 to 1, in the detector's order; None if there is none."""
MIN_FACE_PX = 20
"""Side of the smallest face that is searched for, in pixels."""
_CLASSIFIER = "logits."
WEIGHTS_URL = "https://github.com/timesler/facenet-pytorch/releases/download/v2.2.9/20180402-114759-vggface2.pt"


class FaceEncoder(Protocol):
    """Embeds the face of an image."""

    name: str
    """Name in tables."""
    weights_hash: str
    """SHA-256 of the weights."""

    def embed_face(self, image: Image) -> Embedding | None:
        """Return the embedding of the image's first face, of length 1; None if it shows none."""


class FacenetEncoder:
    """Face encoder that runs a detector and InceptionResnetV1."""

    name = "FaceNet (InceptionResnetV1, VGGFace2)"

    def __init__(
        self, detector: FaceDetector, network: nn.Module, weights_hash: str, device: torch.device | str = "cpu"
    ) -> None:
        self.weights_hash = weights_hash
        self._detector = detector
        self._device = torch.device(device)
        self._network = network.to(self._device).eval().requires_grad_(False)

    def embed_face(self, image: Image) -> Embedding | None:
        """Return the embedding of the first face; of facenet-pytorch's MTCNN that is the largest."""
        if min(image.shape[:2]) < MIN_FACE_PX:
            return None  # MTCNN fails on an image without a single scale
        faces = self._detector(PillowImage.fromarray(image))
        if faces is None:
            return None
        with torch.inference_mode(), full_float32():
            embedding: Tensor = self._network(faces[:1].to(self._device))[0]
        return embedding.float().cpu().numpy()


def load_facenet(source: str, device: torch.device | str = "cpu") -> FacenetEncoder:
    """Load MTCNN and InceptionResnetV1 with FastComposer's settings. Downloads nothing.

    Args:
        source: file of the weights for VGGFace2, `20180402-114759-vggface2.pt`.
        device: device of both networks.

    Raises:
        EncoderWeightsError: facenet-pytorch is not installed, or the file is missing, damaged or of another network.
    """
    path, network = Path(source).expanduser(), empty_facenet()
    if not path.is_file():
        raise EncoderWeightsError(f"weights of FaceNet: {source} is no file: download {WEIGHTS_URL} and give its path")
    try:
        weights = Checkpoint(path, facenet_tensors(read_tensors(path)))
        check_tensors(path, weights.tensors, floats(network.state_dict()))
    except ModelWeightsError as error:
        raise EncoderWeightsError(f"weights of FaceNet: {error}") from error
    network.load_state_dict(weights.tensors, strict=False)  # the file counts batches of the training as well
    return FacenetEncoder(mtcnn(device), network, weights.sha256(), device)


def empty_facenet() -> nn.Module:
    """Build InceptionResnetV1 with random weights.

    Raises:
        EncoderWeightsError: facenet-pytorch is not installed.
    """
    network: nn.Module = _facenet().InceptionResnetV1(pretrained=None)
    return network


def facenet_tensors(tensors: Mapping[str, Tensor]) -> Tensors:
    """Return the tensors of a file that the network has: without the classifier of its training."""
    return {name: one for name, one in floats(tensors).items() if not name.startswith(_CLASSIFIER)}


def mtcnn(device: torch.device | str = "cpu") -> FaceDetector:
    """Return facenet-pytorch's MTCNN with FastComposer's settings, whose weights are in the package.

    Raises:
        EncoderWeightsError: facenet-pytorch is not installed.
    """
    detector: FaceDetector = _facenet().MTCNN(
        image_size=160,
        margin=0,
        min_face_size=MIN_FACE_PX,
        thresholds=[0.6, 0.7, 0.7],
        factor=0.709,
        post_process=True,
        keep_all=True,
        device=torch.device(device),
    )
    return detector


def embed_faces(
    encoder: FaceEncoder, paths: Iterable[Path], on_progress: Progress | None = None
) -> dict[Path, Embedding | Unreadable | None]:
    """Return the embedding of each file's first face; None for a file without one.

    Args:
        encoder: the encoder.
        paths: image files.
        on_progress: receives the progress after each file.
    """
    files = list(dict.fromkeys(paths))
    found: dict[Path, Embedding | Unreadable | None] = {}
    for path in files:
        found[path] = _embed_file(encoder, path)
        if on_progress is not None:
            on_progress(len(found), len(files))
    return found


def embed_reference_face(encoder: FaceEncoder, path: Path) -> Embedding:
    """Return the embedding of a reference's first face.

    Raises:
        ImagesError: the file is unreadable or shows no face, so that no image can be compared with it.
    """
    face = _embed_file(encoder, path)
    if face is None:
        raise ImagesError(f"{path}: {encoder.name} finds no face in this reference: give a photo that shows one")
    if isinstance(face, Unreadable):
        raise ImagesError(f"{path} is unreadable ({face.reason}): give another photo")
    return face


def _embed_file(encoder: FaceEncoder, path: Path) -> Embedding | Unreadable | None:
    """Return the embedding of a file's first face.

    Raises:
        EncoderWeightsError: it is NaN or infinite.
    """
    try:
        face = encoder.embed_face(decode_image(path.read_bytes()))
    except UndecodableImage as error:
        return Unreadable(f"{error.reason}: {error}")
    except OSError as error:
        return Unreadable(error.strerror or type(error).__name__)
    if face is not None and not np.isfinite(face).all():
        raise EncoderWeightsError(f"{encoder.name} embeds {path} as NaN or infinity: download its weights again")
    return face


def _facenet() -> Any:
    try:
        import facenet_pytorch
    except ImportError as error:
        raise EncoderWeightsError(
            "face identity needs facenet-pytorch: .venv/bin/pip install --no-deps facenet-pytorch==2.6.0"
        ) from error
    return facenet_pytorch
