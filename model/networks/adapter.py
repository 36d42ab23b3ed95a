"""The adapter between self- and cross-attention, and the image tokens h_e that it attends to.

Paper: Sec. 3.3, "Dense image and object location control".

Axes: B images, A of them with adapter tokens, R reference subjects, P patches, M = R·P image tokens, N latent
positions, D width, h heads, d width of a head.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from diffusers.models.attention import FeedForward
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from model.config import AbsentSlots, BoxCondition, FourierOrder, ModelConfig
from model.networks.mlp import feature_mlp
from model.networks.network import Network

KeysValues = tuple[Tensor, Tensor]
"""Keys and values of one layer, each [B h T d]."""
FREQUENCIES = 8
"""Number of frequencies per coordinate in Fourier(l)."""
TEMPERATURE = 100.0
"""Base of the frequencies in Fourier(l)."""
POSITION_FREQUENCIES = 5
"""Number of frequencies per coordinate in the position code of patches and latent positions."""
_POSITION_STD = 0.5
"""Standard deviation of the initial weights, which makes the code about as large as normalised tokens."""


@dataclass(frozen=True)
class AdapterInputs:
    """Image tokens for the adapters of one forward pass.

    They belong to the first A images of the batch; adapters leave the other images unchanged.
    """

    tokens: Float[Tensor, "A M D"]
    """Image tokens h_e of all subjects."""
    bias: Float[Tensor, "A M"] | None = None
    """Term added to the attention logits of each token: the logarithm of its subject's strength, -inf if absent."""
    gate: Float[Tensor, " A"] | None = None
    """Factor per image: 1 where the adapters act, 0 where they are off."""
    patch_centres: Float[Tensor, "A M 2"] | None = None
    """Centre of each token's patch in the image, x and y in [0, 1]; None if the adapters have no position code."""
    keys_values: Sequence[KeysValues] = ()
    """Keys and values of the tokens for each adapter; empty unless they were projected in advance."""
    latent_size: tuple[int, int] = (1, 1)
    """Rows and columns of the latent, or their proportions. Only a position code needs them."""

    def without_first(self, images: int) -> "AdapterInputs":
        """Return the inputs of all but the first `images` images."""
        return self._of(slice(images, None))

    def without_last(self, images: int) -> "AdapterInputs":
        """Return the inputs of all but the last `images` images, for which adapters then compute nothing."""
        return self._of(slice(len(self.tokens) - images))

    def _of(self, images: slice) -> "AdapterInputs":
        return replace(
            self,
            tokens=self.tokens[images],
            bias=None if self.bias is None else self.bias[images],
            gate=None if self.gate is None else self.gate[images],
            patch_centres=None if self.patch_centres is None else self.patch_centres[images],
            keys_values=tuple((keys[images], values[images]) for keys, values in self.keys_values),
        )


def fourier(boxes: Float[Tensor, "B R 4"], order: FourierOrder = FourierOrder.BY_COORDINATE) -> Float[Tensor, "B R _l"]:
    """Return Fourier(l): sine and cosine of each coordinate at 8 frequencies, 64 numbers per box.

    Args:
        boxes: xyxy in [0, 1].
        order: order of the numbers.

    Choices: the paper names no frequencies; these are the released code's, 100^(k/8) for k = 0 … 7.
    """
    frequencies = TEMPERATURE ** (torch.arange(FREQUENCIES, device=boxes.device) / FREQUENCIES)
    angles = boxes[..., None] * frequencies
    code = torch.stack([angles.sin(), angles.cos()], dim=-2)  # by coordinate, by sine and cosine, by frequency
    return (code if order is FourierOrder.BY_COORDINATE else code.transpose(-3, -1)).flatten(2)


def position_code(centres: Float[Tensor, "*_n 2"]) -> Float[Tensor, "*_n _p"]:
    """Return the position code: sines and cosines of x and y at frequencies π, 2π, … 16π."""
    frequencies = math.pi * 2.0 ** torch.arange(POSITION_FREQUENCIES, device=centres.device)
    angles = centres[..., None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=-1).flatten(-2)


def cell_centres(
    cells: int, device: torch.device | None = None, size: tuple[int, int] = (1, 1)
) -> Float[Tensor, "{cells} 2"]:
    """Return the centres x, y in [0, 1] of the cells of a grid, row by row.

    Args:
        cells: number of cells.
        device: device of the result.
        size: proportions of the grid, rows to columns.
    """
    rows = math.isqrt(cells * size[0] // size[1])
    columns = cells // rows
    middles = ((torch.arange(count, device=device) + 0.5) / count for count in (rows, columns))
    y, x = torch.meshgrid(*middles, indexing="ij")
    return torch.stack([x, y], dim=-1).flatten(0, 1)


def patch_centres(
    boxes: Float[Tensor, "B R 4"], patches: int, padded: bool, size: tuple[int, int] = (1, 1)
) -> Float[Tensor, "B M 2"]:
    """Return where the patches of the subjects' square pictures lie in the image when each subject fills its box.

    Args:
        boxes: xyxy in [0, 1].
        patches: number of patches per picture, a square number.
        padded: whether pictures are padded to their longer side (`SubjectConfig.square`) or cropped to the shorter.
        size: proportions of the image, rows to columns.
    """
    corner, sides = boxes[..., :2], boxes[..., 2:] - boxes[..., :2]
    longest = max(size)
    scale = torch.tensor([size[1] / longest, size[0] / longest], device=boxes.device)
    scaled = sides * scale
    side = (scaled.amax(-1, keepdim=True) if padded else scaled.amin(-1, keepdim=True)) / scale
    from_middle = (cell_centres(patches, boxes.device) - 0.5) * side[..., None, :]
    return ((corner + sides / 2)[..., None, :] + from_middle).flatten(1, 2)


class SubjectTokens(Network):
    """h_e = MLP([v, Fourier(l)]), one token per patch of each subject (Sec. 3.3).

    Args:
        patches: number of patch tokens per picture from the image encoder.
        patch_width: width of the patch tokens v.
        width: width of h_e, the UNet's cross-attention width.
        config: settings of the model.
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
        self.null_patches = _null_features(patches, patch_width, learned=padded)
        self.null_position = _null_features(patches, self.position_width, learned=padded or self.boxless_single)
        inputs = patch_width + self.position_width
        self.mlp = feature_mlp(inputs, width)

    def forward(
        self,
        patch_features: Float[Tensor, "B R P _v"],
        boxes: Float[Tensor, "B R 4"],
        present: Bool[Tensor, "B R"],
    ) -> Float[Tensor, "B M D"]:
        """Return h_e of every slot; values of absent slots, even NaN, are replaced before use."""
        missing = max(self.slots - present.shape[1], 0)
        present = F.pad(present, (0, missing))
        v = torch.where(present[..., None, None], F.pad(patch_features, (0, 0, 0, 0, 0, missing)), self.null_patches)
        fourier_l = self._positions(F.pad(boxes, (0, 0, 0, missing)), present)
        inputs = torch.cat([v, fourier_l.expand(*v.shape[:3], -1)], dim=-1)
        if self.dtype is not torch.float32:  # the code of the boxes is in float32
            inputs = inputs.to(self.dtype)
        h_e: Tensor = self.mlp(inputs)
        return h_e.flatten(1, 2)

    def inputs(
        self,
        patch_features: Float[Tensor, "B R P _v"],
        boxes: Float[Tensor, "B R 4"],
        present: Bool[Tensor, "B R"],
        strengths: Float[Tensor, "B R"] | None = None,
        full: bool = False,
        latent_size: tuple[int, int] = (1, 1),
    ) -> AdapterInputs:
        """Return the inputs of the adapters.

        Args:
            patch_features: patch tokens of each subject's picture.
            boxes: xyxy in [0, 1].
            present: slots that hold a subject.
            strengths: factor on the attention to each subject's tokens before normalisation, by default 1. A subject
                of strength 0 counts as absent.
            full: whether every slot is known to hold a subject, so that attention needs no mask.
            latent_size: rows and columns of the latent, or their proportions.
        """
        if strengths is not None:
            present = present & (strengths > 0)
        tokens, centres = self(patch_features, boxes, present), self._patch_centres(boxes, present, latent_size)
        if strengths is None and (full or self.absent_strength == 1.0):
            return AdapterInputs(tokens, patch_centres=centres, latent_size=latent_size)
        given = torch.ones_like(boxes[..., 0]) if strengths is None else strengths
        strength = torch.where(present, given, self.absent_strength)
        strength = F.pad(strength, (0, max(self.slots - strength.shape[1], 0)), value=self.absent_strength)
        bias = strength.log().repeat_interleave(patch_features.shape[2], dim=1)
        gate = (strength > 0).any(dim=1).to(tokens.dtype)
        return AdapterInputs(tokens, bias, gate, patch_centres=centres, latent_size=latent_size)

    def _patch_centres(
        self, boxes: Float[Tensor, "B R 4"], present: Bool[Tensor, "B R"], size: tuple[int, int]
    ) -> Float[Tensor, "B M 2"] | None:
        if not self.patches:
            return None
        boxes = torch.where(present[..., None], boxes, 0.0)
        padded = F.pad(boxes, (0, 0, 0, max(self.slots - boxes.shape[1], 0)))
        return patch_centres(padded, self.patches, self.padded_pictures, size)

    def _positions(self, boxes: Float[Tensor, "B R 4"], present: Bool[Tensor, "B R"]) -> Float[Tensor, "B R _p _l"]:
        known = present & (present.sum(1, keepdim=True) > 1) if self.boxless_single else present
        code = fourier(torch.where(present[..., None], boxes, 0.0), self.fourier_order)[:, :, None]
        code = code[..., : self.position_width]
        return torch.where(known[..., None, None], code, self.null_position)


class ImageTokenAttention(nn.Module):
    """S([L_a, h_e]): self-attention over latent positions and image tokens, computed for the rows of L_a only.

    The other rows are never used, so image tokens get no queries. The norm and the projections work token by token, so
    the result is the same at less cost, and the keys and values of h_e can be projected once for all sampler steps.
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
            nn.Linear(4 * POSITION_FREQUENCIES, width, bias=False) if config.departures.patch_positions else None
        )
        if self.from_place is not None:
            nn.init.normal_(self.from_place.weight, std=_POSITION_STD)
        if config.departures.keys_start_as_queries:
            self.to_k.weight.data.copy_(self.to_q.weight.data)

    def keys_values(self, h_e: Float[Tensor, "A M _t"], centres: Float[Tensor, "A M 2"] | None = None) -> KeysValues:
        """Return keys and values of the image tokens h_e.

        Args:
            h_e: image tokens.
            centres: centre of each token's patch in the image.
        """
        tokens = self.norm(self.from_tokens(h_e))
        return self._split(self.to_k(self._add_position_code(tokens, centres))), self._split(self.to_v(tokens))

    def forward(
        self,
        L_a: Float[Tensor, "A N D"],
        keys_values: KeysValues,
        bias: Float[Tensor, "A M"] | None,
        size: tuple[int, int] = (1, 1),
    ) -> Float[Tensor, "A N D"]:
        """Return S([L_a, h_e]) for the rows of L_a, from the keys and values of h_e."""
        latents = self.norm(L_a)
        positioned = latents
        if self.from_place is not None:
            positioned = self._add_position_code(latents, cell_centres(L_a.shape[1], L_a.device, size))
        k_e, v_e = keys_values
        k = torch.cat([self._split(self.to_k(positioned)), k_e], dim=2)
        v = torch.cat([self._split(self.to_v(latents)), v_e], dim=2)
        mask = None if bias is None else F.pad(bias, (L_a.shape[1], 0))[:, None, None].to(k.dtype)
        attended = F.scaled_dot_product_attention(self._split(self.to_q(positioned)), k, v, attn_mask=mask)
        out: Tensor = self.to_out(attended.transpose(1, 2).flatten(2))
        return out

    def _add_position_code(self, x: Tensor, centres: Float[Tensor, "*_n 2"] | None) -> Tensor:
        """Add the code of `centres` to `x`, if this layer has a position code."""
        if self.from_place is None:
            return x
        assert centres is not None
        code: Tensor = self.from_place(position_code(centres).to(self.from_place.weight.dtype))
        return x + code

    def _split(self, x: Float[Tensor, "A T _w"]) -> Float[Tensor, "A h T d"]:
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)


class GatedFeedForward(nn.Module):
    """Feed-forward x + beta · tanh(gamma) · FF(x), a term of GLIGEN's adapter that the paper does not print."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(()))
        self.norm = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width, activation_fn="geglu")

    def forward(self, x: Float[Tensor, "A N D"], strength: Float[Tensor, "A 1 1"] | float) -> Float[Tensor, "A N D"]:
        """Return `x` plus the feed-forward's output, scaled by `strength` and the gate."""
        transformed: Tensor = self.feed_forward(self.norm(x))
        return x + strength * self.gamma.tanh() * transformed


class SubjectAdapter(nn.Module):
    """L_a := L_a + beta · tanh(gamma) · S([L_a, h_e]) (Sec. 3.3).

    gamma starts at 0, so a new adapter leaves the base's images unchanged. `DeparturesConfig.gate_start` sets another
    start.

    Args:
        index: index among the UNet's adapters, and so of its keys and values in `AdapterInputs`.
        width: width of the transformer block.
        heads: number of heads of S.
        inner_width: width of S over all heads.
        token_width: width of h_e.
        config: settings of the model.

    Choice: only the rows of the latent positions of S's output are kept, as in GLIGEN.
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
        """Adapt the latents; the transformer block calls this between its self- and cross-attention."""
        adapted = self._adapt(L_a[: len(objs.tokens)], objs)
        return torch.cat([adapted, L_a[len(adapted) :]]) if len(adapted) < len(L_a) else adapted

    def _adapt(self, L_a: Float[Tensor, "A N D"], objs: AdapterInputs) -> Float[Tensor, "A N D"]:
        h_e = objs.keys_values[self.index] if objs.keys_values else self.S.keys_values(objs.tokens, objs.patch_centres)
        beta = self.beta if objs.gate is None else self.beta * objs.gate[:, None, None]
        L_a = L_a + beta * self.gamma.tanh() * self.S(L_a, h_e, objs.bias, objs.latent_size)
        return L_a if self.feed_forward is None else self.feed_forward(L_a, beta)


def fourier_width() -> int:
    """Return the width of Fourier(l): sine and cosine of four coordinates."""
    return 2 * 4 * FREQUENCIES


def _null_features(patches: int, width: int, learned: bool) -> Tensor:
    """Return zeros that stand for absent features; a parameter if `learned`, otherwise a buffer."""
    return nn.Parameter(torch.zeros(patches, width)) if learned else nn.Buffer(torch.zeros(1, width), persistent=False)
