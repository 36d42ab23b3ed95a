"""The base before training, which denoises in the text phase of an interpolation (second line of Eq. 4).

Choice: the paper conditions this phase on text alone and does not name its weights. The trained text encoder has seen
few prompts without clauses, so the base's own text encoder is used. Trained keys and values fit the trained encoder
only, so those of the base, and its conv_in, are used as well. All other weights of the UNet are shared.
"""

from dataclasses import dataclass

import torch
from diffusers import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor

from model.config import ModelConfig
from model.inputs.batch import PromptTokens
from model.networks.text_encoder import TextEncoder
from model.networks.unet import SubjectUNet
from model.subject_diffusion import SubjectDiffusion
from model.weights.folders import load_base_text_encoder, load_base_unet

_TRAINED = ("conv_in.", ".attn2.to_k.", ".attn2.to_v.")
"""Parts of the names of the UNet's trained weights."""


@dataclass(frozen=True)
class OriginalBase:
    """Text encoder and UNet of the base before training: epsilon_theta(z_t, t, y)."""

    text_encoder: TextEncoder
    unet: SubjectUNet

    @classmethod
    def from_model(cls, net: SubjectDiffusion) -> "OriginalBase":
        """Load the base that `net` was trained from.

        Raises:
            ModelWeightsError: the base cannot be read.
        """
        unet = restore_unet(net.unet.base, load_base_unet(net.config), net.config)
        return cls(TextEncoder(load_base_text_encoder(net.config), subject_width=None), unet)

    def to(self, device: torch.device, dtype: torch.dtype) -> "OriginalBase":
        """Move and cast the networks in place, and return them."""
        self.text_encoder.to(device, dtype)
        self.unet.to(device, dtype)
        return self

    def encode_text(self, prompts: PromptTokens) -> Float[Tensor, "B T D"]:
        """Return the text condition of prompts without clauses."""
        no_subjects = prompts.token_ids.new_empty(len(prompts.token_ids), 0)
        condition: Tensor = self.text_encoder(prompts.token_ids, no_subjects, no_subjects[..., None].float())
        return condition


def restore_unet(trained: UNet2DConditionModel, base: UNet2DConditionModel, config: ModelConfig) -> SubjectUNet:
    """Return the UNet before training; it shares with `trained` all weights that training leaves unchanged.

    Args:
        trained: the trained UNet.
        base: the base's UNet, which is changed in place.
        config: settings of the model.
    """
    frozen = dict(trained.named_parameters())
    for name, _ in list(base.named_parameters()):
        if not any(part in name for part in _TRAINED):
            module, _, leaf = name.rpartition(".")
            base.get_submodule(module).register_parameter(leaf, frozen[name])
    plain = config.model_copy(update={"use_location_control": False, "use_adapter": False})
    return SubjectUNet(base, plain)
