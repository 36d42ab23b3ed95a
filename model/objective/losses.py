"""The training objective: Eq. 2 and Eq. 3.

Axes: B images, K entity tokens (two per subject: its label and its placeholder, as in Fig. 3), _h _w sides of an
attention map (unchecked, because they differ by layer), C latent channels, H W rows and columns.
"""

from collections.abc import Mapping
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from model.config import AttentionLoss, AttentionMean, LayerReduction, MaskResize

Maps = Mapping[str, Float[Tensor, "B K _h _w"]]
_RESIZE = {
    MaskResize.AREA: partial(F.interpolate, mode="area"),
    MaskResize.BILINEAR: partial(F.interpolate, mode="bilinear", antialias=True),
}
_EPS = 1e-5
"""Term added to areas and counts before dividing by them, because they may be zero."""


def attention_map_loss(
    maps: Maps,
    masks: Float[Tensor, "B K H W"],
    present: Bool[Tensor, "B K"],
    form: AttentionLoss = AttentionLoss.L1,
    reduction: LayerReduction = LayerReduction.SUM,
    mean: AttentionMean = AttentionMean.ENTITIES,
    resize: MaskResize = MaskResize.AREA,
) -> Float[Tensor, ""]:
    """Return L_attn, the distance between the attention of an entity's token and the entity's mask.

    Paper: Eq. 2,  L_attn = 1/N sum_k sum_l | CA_l(z_t, y_k) - M_k |.

    Args:
        maps: CA_l by layer, averaged over heads, values in [0, 1].
        masks: M_k, 1 inside the entity and 0 outside, at any size.
        present: slots (of K) that hold a token; N is their number in the batch.
        form: form of the distance |.|.
        reduction: how the layers are combined.
        mean: how entities are averaged.
        resize: how masks are shrunk to a layer's size.

    Choices: |.| is the mean over pixels, which weights all layers alike; masks are shrunk by area by default, which
    keeps the mass of a thin entity.
    """
    distance = {AttentionLoss.L1: _l1_distance, AttentionLoss.BALANCED: _balanced_distance}[form]
    weights, n = _weights(present, mean)
    M_l = _shrink_masks(masks, present, maps, resize)
    total = masks.new_zeros(())
    for ca in maps.values():
        total = total + torch.where(present, distance(ca, M_l[ca.shape[-2:]]) * weights, 0.0).sum()
    layers = max(len(maps), 1) if reduction is LayerReduction.MEAN else 1
    return total / n / layers


def training_objective(
    eps: Float[Tensor, "B C H W"],
    eps_theta: Float[Tensor, "B C H W"],
    L_attn: Float[Tensor, ""],
    lambda_attn: float,
) -> Float[Tensor, ""]:
    """Return the loss that training minimizes.

    Paper: Eq. 3,  L = E[ || eps - eps_theta(z_t, t, y, x_s, l, l_m) ||^2 ] + lambda_attn L_attn.

    Args:
        eps: target of the prediction; the velocity if the base predicts velocities.
        eps_theta: prediction of the network.
        L_attn: loss of Eq. 2.
        lambda_attn: weight of `L_attn`.

    Choice: the norm is the mean over all axes, as in the training of the base.
    """
    return F.mse_loss(eps_theta.float(), eps.float()) + lambda_attn * L_attn


@torch.no_grad()
def attention_in_mask(maps: Maps, masks: Float[Tensor, "B K H W"], present: Bool[Tensor, "B K"]) -> Float[Tensor, ""]:
    """Return the share of the entities' attention that falls inside their masks, 0 to 1.

    This metric is the mean over entities and layers.
    """
    M_l = _shrink_masks(masks, present, maps, MaskResize.AREA)
    total = masks.new_zeros(())
    for ca in maps.values():
        share = (ca * M_l[ca.shape[-2:]]).sum(dim=(-2, -1)) / ca.sum(dim=(-2, -1)).clamp(min=1e-12)
        total = total + torch.where(present, share, 0.0).sum()
    return total / (present.sum() * len(maps)).clamp(min=1)


def _shrink_masks(
    masks: Float[Tensor, "B K H W"], present: Bool[Tensor, "B K"], maps: Maps, resize: MaskResize
) -> dict[torch.Size, Float[Tensor, "B K _h _w"]]:
    """Return the masks at each size that occurs among `maps`, with zeros in absent slots."""
    M = torch.where(present[..., None, None], masks, 0.0)
    return {size: _RESIZE[resize](M, size=size) for size in {ca.shape[-2:] for ca in maps.values()}}


def _weights(present: Bool[Tensor, "B K"], mean: AttentionMean) -> tuple[Tensor | float, Tensor | int]:
    """Return the weight of each image's entities, and the divisor of their weighted sum."""
    if mean is AttentionMean.ENTITIES:
        return 1.0, present.sum().clamp(min=1)
    return 1.0 / (present.sum(dim=1, keepdim=True) + _EPS), len(present)


def _l1_distance(ca: Float[Tensor, "B K _h _w"], m: Float[Tensor, "B K _h _w"]) -> Float[Tensor, "B K"]:
    return (ca - m).abs().mean(dim=(-2, -1))


def _balanced_distance(ca: Float[Tensor, "B K _h _w"], m: Float[Tensor, "B K _h _w"]) -> Float[Tensor, "B K"]:
    """Return mean attention on the background minus mean attention on the entity, both independent of the area."""
    return _mean_on(1.0 - m, ca) - _mean_on(m, ca)


def _mean_on(m: Float[Tensor, "B K _h _w"], ca: Float[Tensor, "B K _h _w"]) -> Float[Tensor, "B K"]:
    return (ca * m).sum(dim=(-2, -1)) / (m.sum(dim=(-2, -1)) + _EPS)
