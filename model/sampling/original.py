"""The base as it was before training: what the second line of Eq. 4 denoises with.

Choice: the paper's second line is conditioned on text alone and does not say by which weights. The trained encoder has
seen few prompts without clauses, so the original one reads them; and as the trained keys and values have learned to
read the trained encoder, the original ones, and conv_in, go with it. All other weights of the UNet are shared.
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


@dataclass(frozen=True)
class OriginalBase:
    """epsilon_theta(z_t, t, y)."""

    text_encoder: TextEncoder
    unet: SubjectUNet

    @classmethod
    def from_model(cls, net: SubjectDiffusion) -> "OriginalBase":
        """What `net` was before training.

        Raises:
            CheckpointError: the base that it was made from cannot be read any more.
        """
        unet = restore_unet(net.unet.base, load_base_unet(net.config), net.config)
        return cls(TextEncoder(load_base_text_encoder(net.config), subject_width=None), unet)

    def to(self, device: torch.device, dtype: torch.dtype) -> "OriginalBase":
        """The same, moved and cast in place."""
        self.text_encoder.to(device, dtype)
        self.unet.to(device, dtype)
        return self

    def text(self, prompts: PromptTokens) -> Float[Tensor, "B T D"]:
        """The text condition of prompts without clauses."""
        nobody = prompts.token_ids.new_empty(len(prompts.token_ids), 0)
        condition: Tensor = self.text_encoder(prompts.token_ids, nobody, nobody[..., None].float())
        return condition


def restore_unet(trained: UNet2DConditionModel, base: UNet2DConditionModel, config: ModelConfig) -> SubjectUNet:
    """`base` without what is ours, which shares with `trained` all weights that training left alone."""
    frozen = dict(trained.named_parameters())
    for name, _ in list(base.named_parameters()):
        if not any(part in name for part in _TRAINED):
            module, _, leaf = name.rpartition(".")
            base.get_submodule(module).register_parameter(leaf, frozen[name])
    plain = config.model_copy(update={"use_location_control": False, "use_adapter": False})
    return SubjectUNet(base, plain)
