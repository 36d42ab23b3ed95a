"""Encoders of an evaluation, loaded from the weights that the settings name."""

from collections.abc import Sequence
from pathlib import Path

import torch

from evaluation.config import EncodersConfig
from evaluation.encoders.clip import ClipEncoder
from evaluation.encoders.encoder import ImageEncoder
from evaluation.encoders.face import FaceEncoder, load_facenet
from evaluation.encoders.load import load_encoder
from evaluation.errors import EncoderWeightsError
from evaluation.protocols import EncoderSpec, Protocol
from evaluation.regions import SubjectDetector
from evaluation.run import Networks, image_specs
from flows.cutout_networks import CHECKOUT
from miniature.scoring.embedder_encoder import EMBEDDER, EmbedderEncoder


def load_networks(
    protocols: Sequence[Protocol],
    config: EncodersConfig,
    device: str | None,
    detector: SubjectDetector | None = None,
) -> Networks:
    """Load each encoder that the protocols name once.

    Args:
        protocols: the protocols.
        config: weights.
        device: device that computes; by default a GPU, if there is one.
        detector: finds subjects in images; None to find none.

    Raises:
        EncoderWeightsError: weights are missing, unreadable, or of another network.
    """
    specs = dict.fromkeys(spec for protocol in protocols for spec in image_specs(protocol))
    images = {spec: load_image_encoder(spec, config, device) for spec in specs}
    prompts = {spec: encoder for spec, encoder in images.items() if isinstance(encoder, ClipEncoder)}
    faces = _load_faces(config, device) if any(protocol.faces for protocol in protocols) else None
    return Networks(images, prompts, faces, detector)


def load_image_encoder(spec: EncoderSpec, config: EncodersConfig, device: str | None) -> ImageEncoder:
    """Load one encoder.

    Raises:
        EncoderWeightsError: as `load_networks`.
    """
    chosen = _device(device)
    if spec == EMBEDDER:
        return EmbedderEncoder(_in_checkout(spec.weights), chosen)
    return load_encoder(spec, config, chosen)


def _load_faces(config: EncodersConfig, device: str | None) -> FaceEncoder:
    if config.facenet is None:
        raise EncoderWeightsError(
            "evaluation.encoders.facenet is not set: give the file 20180402-114759-vggface2.pt of facenet-pytorch"
        )
    return load_facenet(config.facenet, _device(device))


def _device(device: str | None) -> str:
    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def _in_checkout(folder: str) -> Path:
    return Path(folder) if Path(folder).exists() else CHECKOUT / folder
