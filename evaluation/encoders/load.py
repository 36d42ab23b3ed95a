"""Load the encoder that a spec describes from the weights that the settings name."""

import torch

from evaluation.config import EncodersConfig
from evaluation.encoders.clip import ClipEncoder, load_clip
from evaluation.encoders.dino import DinoEncoder, load_dino
from evaluation.encoders.specs import CLIP_VITB32, CLIP_VITL14, DINO_VITS8, DINO_VITS16, DINOV2_VITS14
from evaluation.errors import EncoderWeightsError
from evaluation.protocols import EncoderSpec

SETTINGS = {
    "dino_vits16": DINO_VITS16,
    "dino_vits8": DINO_VITS8,
    "dinov2_vits14": DINOV2_VITS14,
    "clip_vitb32": CLIP_VITB32,
    "clip_vitl14": CLIP_VITL14,
}
"""Specs of the encoders by the setting that names their weights."""


def load_encoder(
    spec: EncoderSpec, config: EncodersConfig, device: torch.device | str = "cpu"
) -> DinoEncoder | ClipEncoder:
    """Load an encoder of images; CLIP embeds prompts as well.

    Raises:
        EncoderWeightsError: no setting names the spec's weights, or they do not load.
    """
    source = encoder_source(spec, config)
    return (load_dino if is_dino(spec) else load_clip)(spec, source, device)


def encoder_source(spec: EncoderSpec, config: EncodersConfig) -> str:
    """Return the path or hub id of a spec's weights, whatever precision or preprocessing it has.

    Raises:
        EncoderWeightsError: no setting names them.
    """
    for setting, own in SETTINGS.items():
        if own.weights == spec.weights:
            source: str = getattr(config, setting)
            return source
    names = ", ".join(own.weights for own in SETTINGS.values())
    raise EncoderWeightsError(f"{spec.name}: no setting names the weights {spec.weights}; there are {names}")


def is_dino(spec: EncoderSpec) -> bool:
    """Return whether the spec is one of DINO or DINOv2, rather than of CLIP."""
    return spec.architecture.startswith("dino")
