"""The fusion text encoder T_theta, which encodes prompt and subjects together (Sec. 3.3, "Fusion text encoder").

Axes: B images, R reference subjects, T text tokens, D width.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import CLIPTextModel
from transformers.masking_utils import create_causal_mask

from model.inputs.batch import ABSENT
from model.networks.mlp import feature_mlp
from model.networks.network import Network


class TextEncoder(Network):
    """C = T_theta(v_g, t_y), the last hidden state of the base's CLIP text encoder, which is trained as a whole.

    Args:
        clip: the base's text encoder.
        subject_width: width of v_g; None leaves the placeholder its own embedding (Table 3 g).
    """

    def __init__(self, clip: CLIPTextModel, subject_width: int | None) -> None:
        super().__init__()
        self.clip = clip
        self.width: int = clip.config.hidden_size
        self.max_tokens: int = clip.config.max_position_embeddings
        self.subject_mlp = None if subject_width is None else feature_mlp(subject_width, self.width)

    def grow_vocabulary(self, size: int) -> None:
        """Extend the embedding table to `size` rows; each new row is the mean of the base's rows."""
        known = self.clip.config.vocab_size
        if size <= known:
            return
        self.clip.resize_token_embeddings(size, mean_resizing=False)
        with torch.no_grad():
            table = self.clip.embeddings.token_embedding.weight
            table[known:] = table[:known].mean(dim=0)

    def forward(
        self,
        token_ids: Int[Tensor, "B T"],
        placeholder_positions: Int[Tensor, "B R"],
        subject_embedding: Float[Tensor, "B R _e"],
    ) -> Float[Tensor, "B T D"]:
        """Return the text condition C.

        Args:
            token_ids: token ids of the prompts.
            placeholder_positions: position of each subject's placeholder; an absent subject's embedding is not used.
            subject_embedding: CLS embeddings v_g of the subjects.
        """
        t_y = self.clip.embeddings.token_embedding(token_ids)
        if self.subject_mlp is not None and placeholder_positions.shape[1] > 0:
            used = (placeholder_positions != ABSENT)[..., None]
            v_g = self.subject_mlp(torch.where(used, subject_embedding, 0.0))
            t_y = _replace_embeddings(t_y, placeholder_positions, v_g.to(t_y.dtype))
        return self._encode(t_y)

    def _encode(self, t_y: Float[Tensor, "B T D"]) -> Float[Tensor, "B T D"]:
        """Run CLIPTextModel's forward pass from the token embeddings on; its own method takes token ids only."""
        states = self.clip.embeddings(inputs_embeds=t_y)
        causal = create_causal_mask(self.clip.config, inputs_embeds=states, attention_mask=None, past_key_values=None)
        encoded = self.clip.encoder(inputs_embeds=states, attention_mask=causal, is_causal=True)
        condition: Tensor = self.clip.final_layer_norm(encoded.last_hidden_state)
        return condition


def _replace_embeddings(
    t_y: Float[Tensor, "B T D"], positions: Int[Tensor, "B R"], v_g: Float[Tensor, "B R D"]
) -> Float[Tensor, "B T D"]:
    """Return t_y with the embeddings at `positions` replaced by v_g; position embeddings are added later."""
    is_placeholder = positions[:, None, :] == torch.arange(t_y.shape[1], device=t_y.device)[:, None]
    subject = is_placeholder.int().argmax(dim=2, keepdim=True).expand_as(t_y)
    return torch.where(is_placeholder.any(dim=2, keepdim=True), v_g.gather(1, subject), t_y)
