"""The adapter between self- and cross-attention, and the tokens h_e it looks at.

Paper: Sec. 3.3, "Dense image and object location control".

Axes: B images, A of them with adapter tokens, R reference subjects, P patches, M = R·P image tokens, N latent
positions, D width, h heads, d width of a head.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers.models.attention import FeedForward
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import AbsentSlots, BoxCondition, FourierOrder, ModelConfig
from model.networks.mlp import feature_mlp

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one layer, each [B h T d]."""
FREQUENCIES = 8
TEMPERATURE = 100.0
PLACE_FREQUENCIES = 5
_PLACE_STD = 0.5
"""So that the code of a place weighs about as much as what is normalised there."""


@dataclass(frozen=True)
class AdapterInputs:
    """What the adapters of one forward pass look at.

    The first A images of the batch have it, the others pass unchanged.
    """

    tokens: Float[Tensor, "A M D"]
    """h_e of all subjects."""
    bias: Float[Tensor, "A M"] | None = None
    """Added to every attention logit of a token: the logarithm of its subject's strength, -inf where it is absent."""
    gate: Float[Tensor, " A"] | None = None
    """1 where the adapters act, 0 where they are off."""
    patch_centres: Float[Tensor, "A M 2"] | None = None
    """Where each token's patch comes to lie, x and y in [0, 1] of the image; None where adapters do not ask."""
    keys_values: Sequence[KeysValues] = ()
    """The tokens as each adapter's keys and values, where they were projected ahead."""


def fourier(boxes: Float[Tensor, "B R 4"], order: FourierOrder = FourierOrder.BY_COORDINATE) -> Float[Tensor, "B R _l"]:
    """Fourier(l): sine and cosine of each coordinate at 8 frequencies, D = 64.

    Args:
        boxes: xyxy in [0, 1].

    Choices: the paper names no frequencies; these are the released code's, 100^(k/8) for k = 0 … 7.
    """
    frequencies = TEMPERATURE ** (torch.arange(FREQUENCIES, device=boxes.device) / FREQUENCIES)
    angles = boxes[..., None] * frequencies
    code = torch.stack([angles.sin(), angles.cos()], dim=-2)  # by coordinate, by sine and cosine, by frequency
    return (code if order is FourierOrder.BY_COORDINATE else code.transpose(-3, -1)).flatten(2)


def position_code(centres: Float[Tensor, "*_n 2"]) -> Float[Tensor, "*_n _p"]:
    """Sine and cosine of x and y at π, 2π, … 16π, one after the other."""
    frequencies = math.pi * 2.0 ** torch.arange(PLACE_FREQUENCIES, device=centres.device)
    angles = centres[..., None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def cell_centres(side: int, device: torch.device | None = None) -> Float[Tensor, "_n 2"]:
    """x and y in [0, 1] of the middle of each cell of a square of `side` cells, row by row."""
    middles = (torch.arange(side, device=device) + 0.5) / side
    y, x = torch.meshgrid(middles, middles, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)


def patch_centres(boxes: Float[Tensor, "B R 4"], patches: int, padded: bool) -> Float[Tensor, "B M 2"]:
    """Where the patches of square pictures of the subjects lie when the subjects fill their boxes.

    Args:
        boxes: xyxy in [0, 1].
        patches: P, a square number.
        padded: whether pictures are padded to the longer side, as `SubjectConfig.square` has it, or cut to the shorter.
    """
    corner, sides = boxes[..., :2], boxes[..., 2:] - boxes[..., :2]
    side = sides.amax(-1, keepdim=True) if padded else sides.amin(-1, keepdim=True)
    from_middle = (cell_centres(math.isqrt(patches), boxes.device) - 0.5) * side[..., None, :]
    return ((corner + sides / 2)[..., None, :] + from_middle).flatten(1, 2)


class SubjectTokens(nn.Module):
    """h_e = MLP([v, Fourier(l)]), one token per patch of each subject (Sec. 3.3).

    Args:
        patches: P, of the image encoder.
        patch_width: of v.
        width: of h_e, the UNet's cross-attention width.
    """

    def __init__(self, patches: int, patch_width: int, width: int, config: ModelConfig) -> None:
        super().__init__()
        padded = config.absent_slots is AbsentSlots.NULL_PADDED
        self.slots = config.max_subjects if padded else 0
        self.absent_strength = 1.0 if padded else 0.0
        self.fourier_order = config.fourier_order
        self.boxless_single = config.box_condition is BoxCondition.NULL_FOR_SINGLE
        self.position_width = fourier_width() if config.use_box_coordinates else 0
        self.patches = patches if config.departures.patch_positions else 0
        self.padded_pictures = config.subject.square
        self.null_patches = _null(patches, patch_width, learned=padded)
        self.null_position = _null(patches, self.position_width, learned=padded or self.boxless_single)
        inputs = patch_width + self.position_width
        self.mlp = feature_mlp(inputs, width)

    def forward(
        self,
        patch_features: Float[Tensor, "B R P _v"],
        boxes: Float[Tensor, "B R 4"],
        present: Bool[Tensor, "B R"],
    ) -> Float[Tensor, "B M D"]:
        """h_e of every slot. What an absent slot holds is replaced before it is used: not even NaN gets past."""
        missing = max(self.slots - present.shape[1], 0)
        present = F.pad(present, (0, missing))
        v = torch.where(present[..., None, None], F.pad(patch_features, (0, 0, 0, 0, 0, missing)), self.null_patches)
        fourier_l = self._positions(F.pad(boxes, (0, 0, 0, missing)), present)
        h_e: Tensor = self.mlp(torch.cat([v, fourier_l.expand(*v.shape[:3], -1)], dim=-1))
        return h_e.flatten(1, 2)

    def inputs(
        self,
        patch_features: Float[Tensor, "B R P _v"],
        boxes: Float[Tensor, "B R 4"],
        present: Bool[Tensor, "B R"],
        strengths: Float[Tensor, "B R"] | None = None,
        full: bool = False,
    ) -> AdapterInputs:
        """What the adapters look at.

        Args:
            strengths: by which the attention to each subject's tokens is multiplied before it is normalised; 1 changes
                nothing, and a subject of strength 0 is absent. By default 1 for all.
            full: every slot is known to hold a subject, so that attention needs no mask.
        """
        if strengths is not None:
            present = present & (strengths > 0)
        tokens, centres = self(patch_features, boxes, present), self._patch_centres(boxes, present)
        if strengths is None and (full or self.absent_strength == 1.0):
            return AdapterInputs(tokens, patch_centres=centres)
        given = torch.ones_like(boxes[..., 0]) if strengths is None else strengths
        strength = torch.where(present, given, self.absent_strength)
        strength = F.pad(strength, (0, max(self.slots - strength.shape[1], 0)), value=self.absent_strength)
        bias = strength.log().repeat_interleave(patch_features.shape[2], dim=1)
        return AdapterInputs(tokens, bias, gate=(strength > 0).any(dim=1).to(tokens.dtype), patch_centres=centres)

    def _patch_centres(
        self, boxes: Float[Tensor, "B R 4"], present: Bool[Tensor, "B R"]
    ) -> Float[Tensor, "B M 2"] | None:
        if not self.patches:
            return None
        boxes = torch.where(present[..., None], boxes, 0.0)
        padded = F.pad(boxes, (0, 0, 0, max(self.slots - boxes.shape[1], 0)))
        return patch_centres(padded, self.patches, self.padded_pictures)

    def _positions(self, boxes: Float[Tensor, "B R 4"], present: Bool[Tensor, "B R"]) -> Float[Tensor, "B R _p _l"]:
        known = present & (present.sum(1, keepdim=True) > 1) if self.boxless_single else present
        code = fourier(torch.where(present[..., None], boxes, 0.0), self.fourier_order)[:, :, None]
        code = code[..., : self.position_width]
        return torch.where(known[..., None, None], code, self.null_position)


class ImageTokenAttention(nn.Module):
    """S([L_a, h_e]): self-attention over latent positions and image tokens together; only L_a's rows of it.

    Nobody reads the other rows, so they ask no queries. Since the norm and the projections work token by token, this is
    the same result at less cost, and h_e's keys and values can be made once for all steps of a sampler.
    """

    def __init__(self, width: int, heads: int, inner_width: int, token_width: int, config: ModelConfig) -> None:
        super().__init__()
        self.heads = heads
        self.from_tokens = nn.Linear(token_width, width)
        self.norm = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner_width, bias=False)
        self.to_k = nn.Linear(width, inner_width, bias=False)
        self.to_v = nn.Linear(width, inner_width, bias=False)
        self.to_out = nn.Linear(inner_width, width)
        self.from_place = (
            nn.Linear(4 * PLACE_FREQUENCIES, width, bias=False) if config.departures.patch_positions else None
        )
        if self.from_place is not None:
            nn.init.normal_(self.from_place.weight, std=_PLACE_STD)
        if config.departures.keys_start_as_queries:
            self.to_k.weight.data.copy_(self.to_q.weight.data)

    def keys_values(self, h_e: Float[Tensor, "A M _t"], centres: Float[Tensor, "A M 2"] | None = None) -> KeysValues:
        tokens = self.norm(self.from_tokens(h_e))
        return self._split(self.to_k(self._add_position_code(tokens, centres))), self._split(self.to_v(tokens))

    def forward(
        self, L_a: Float[Tensor, "A N D"], keys_values: KeysValues, bias: Float[Tensor, "A M"] | None
    ) -> Float[Tensor, "A N D"]:
        latents = self.norm(L_a)
        positioned = latents
        if self.from_place is not None:
            positioned = self._add_position_code(latents, cell_centres(math.isqrt(L_a.shape[1]), L_a.device))
        k_e, v_e = keys_values
        k = torch.cat([self._split(self.to_k(positioned)), k_e], dim=2)
        v = torch.cat([self._split(self.to_v(latents)), v_e], dim=2)
        mask = None if bias is None else F.pad(bias, (L_a.shape[1], 0))[:, None, None].to(k.dtype)
        attended = F.scaled_dot_product_attention(self._split(self.to_q(positioned)), k, v, attn_mask=mask)
        out: Tensor = self.to_out(attended.transpose(1, 2).flatten(2))
        return out

    def _add_position_code(self, x: Tensor, centres: Float[Tensor, "*_n 2"] | None) -> Tensor:
        if self.from_place is None:
            return x
        assert centres is not None
        code: Tensor = self.from_place(position_code(centres).to(self.from_place.weight.dtype))
        return x + code

    def _split(self, x: Float[Tensor, "A T _w"]) -> Float[Tensor, "A h T d"]:
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


class GatedFeedForward(nn.Module):
    """x + beta · tanh(gamma) · FF(x), the second term that GLIGEN's adapter has and the paper does not print."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(()))
        self.norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, activation_fn="geglu")

    def forward(self, x: Float[Tensor, "A N D"], strength: Float[Tensor, "A 1 1"] | float) -> Float[Tensor, "A N D"]:
        transformed: Tensor = self.feed_forward(self.norm(x))
        return x + strength * self.gamma.tanh() * transformed


class SubjectAdapter(nn.Module):
    """L_a := L_a + beta · tanh(gamma) · S([L_a, h_e]) (Sec. 3.3).

    gamma starts at 0, so that a new adapter changes nothing and the base model's images survive the first step;
    `DeparturesConfig.gate_start` is the departure from that.

    Args:
        index: place among the UNet's adapters, which is that of its keys and values in `AdapterInputs`.
        width: D of the transformer block.
        heads: of S.
        inner_width: of S, over all heads.
        token_width: of h_e.

    Choice: of S's output only the N latent positions are kept, as GLIGEN does.
    """

    def __init__(
        self, index: int, width: int, heads: int, inner_width: int, token_width: int, config: ModelConfig
    ) -> None:
        super().__init__()
        self.index = index
        self.beta = config.beta
        self.gamma = nn.Parameter(torch.full((), config.departures.gate_start))
        self.S = ImageTokenAttention(width, heads, inner_width, token_width, config)
        self.feed_forward = GatedFeedForward(width) if config.adapter_feed_forward else None

    def forward(self, L_a: Float[Tensor, "B N D"], objs: AdapterInputs) -> Float[Tensor, "B N D"]:
        """Called by the transformer block between its self- and cross-attention."""
        adapted = self._adapt(L_a[: len(objs.tokens)], objs)
        return torch.cat([adapted, L_a[len(adapted) :]]) if len(adapted) < len(L_a) else adapted

    def _adapt(self, L_a: Float[Tensor, "A N D"], objs: AdapterInputs) -> Float[Tensor, "A N D"]:
        h_e = objs.keys_values[self.index] if objs.keys_values else self.S.keys_values(objs.tokens, objs.patch_centres)
        beta = self.beta if objs.gate is None else self.beta * objs.gate[:, None, None]
        L_a = L_a + beta * self.gamma.tanh() * self.S(L_a, h_e, objs.bias)
        return L_a if self.feed_forward is None else self.feed_forward(L_a, beta)


def fourier_width() -> int:
    """Width of Fourier(l): sine and cosine of four coordinates."""
    return 2 * 4 * FREQUENCIES


def _null(patches: int, width: int, learned: bool) -> Tensor:
    return nn.Parameter(torch.zeros(patches, width)) if learned else nn.Buffer(torch.zeros(1, width), persistent=False)
