"""The small latent: diffusers' `AutoencoderKL`, 64 px to 16 x 16 x 16, in its real folder layout.

Its encoder is a fixed linear code inside that class: the orthogonal PCA of 4 x 4 patches, partly whitened, exact to
rounding. A class made for learning can hold it because silu(x) - silu(-x) = x, so channels in pairs of signs pass the
last activation unchanged, and because two large constants of opposite signs leave a group norm nothing to normalise by
but themselves. The decoder starts as two least-squares fits and is trained from there: no `AutoencoderKL` can hold the
transposed PCA, since its upsampling repeats pixels and its convolutions treat all places alike, so that a latent that
is the same everywhere decodes to one colour, never to a pattern of 4 x 4. The variance is as good as zero.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

SIDE_PX, PATCH_PX, CHANNELS = 64, 4, 16
WIDTH, GROUPS = 48, 4
ARCHITECTURE: dict[str, Any] = {
    "sample_size": SIDE_PX,
    "block_out_channels": (WIDTH,) * 3,
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 0,
    "latent_channels": CHANNELS,
    "norm_num_groups": GROUPS,
    "mid_block_add_attention": False,
    "scaling_factor": 1.0,
}
"""Without resnets in the encoder's blocks; one in each of the decoder's."""
WHITENING = 0.5
"""Power of a channel's deviation that it is divided by: 0 leaves PCA's, 1 gives all channels the same."""
_CONSTANT = 256.0
_GROUP = WIDTH // GROUPS
_LOG_VARIANCE = -20.0


def build(seed: int) -> Any:
    """The autoencoder before `fit`, float32; its resnets add nothing yet."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKL(**ARCHITECTURE)
    for name, module in vae.named_modules():
        if name.endswith("conv2"):
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    return vae


@torch.no_grad()
def fit(vae: Any, images: Float[Tensor, "N 3 64 64"]) -> None:
    """Give the encoder its code and the decoder its start, from images in [-1, 1]; the more, the better."""
    patches = F.unfold(images, PATCH_PX, stride=PATCH_PX).transpose(1, 2).flatten(0, 1)
    mean = patches.mean(0)
    variances, directions = torch.linalg.eigh((patches - mean).T.double() @ (patches - mean).double() / len(patches))
    stds = variances.flip(0)[:CHANNELS].sqrt()
    scales = stds**WHITENING
    scales *= (stds / scales).square().mean().sqrt()  # a deviation of 1 over all channels
    code = (directions.flip(1)[:, :CHANNELS] / scales).T.float()
    _write_encoder(vae, code, -code @ mean)
    _fit_decoder(vae, images)


def encoder_code(vae: Any) -> tuple[Tensor, Tensor]:
    """The rows of the linear code, [16, 48], and its offsets, [16], read off an encoder that `fit` wrote."""
    pixels = torch.eye(3 * PATCH_PX**2).reshape(-1, 3, PATCH_PX, PATCH_PX)
    shown = torch.cat([torch.zeros(1, 3, PATCH_PX, PATCH_PX), pixels]).repeat(1, 1, SIDE_PX // PATCH_PX, 16)
    with torch.no_grad():
        means = vae.encode(shown).latent_dist.mean[..., 8, 8]
    return (means[1:] - means[0]).T, means[0]


def save(vae: Any, folder: Path) -> None:
    """Write the folder that `AutoencoderKL.from_pretrained` loads."""
    vae.save_pretrained(folder)


def _write_encoder(vae: Any, code: Tensor, offset: Tensor) -> None:
    encoder = vae.encoder
    _clear(encoder.conv_in, *(block.downsamplers[0].conv for block in encoder.down_blocks[:2]), encoder.conv_out)
    for colour in range(3):
        encoder.conv_in.weight[colour, colour, 1, 1] = 1.0
    halves, quarters = (block.downsamplers[0].conv for block in encoder.down_blocks[:2])
    for colour in range(3):  # 2 x 2 pixels become channels
        for y in range(2):
            for x in range(2):
                halves.weight[4 * colour + 2 * y + x, colour, y, x] = 1.0
    # code [16, colour, Y, y, X, x] with row 2 Y + y of the patch, as the second step meets it
    taps = code.reshape(CHANNELS, 3, 2, 2, 2, 2).permute(0, 1, 3, 5, 2, 4).reshape(CHANNELS, 12, 2, 2)
    per_group = CHANNELS // GROUPS
    for channel in range(CHANNELS):
        group, place = divmod(channel, per_group)
        first = group * _GROUP + 2 * place
        for index, sign in ((first, 1.0), (first + 1, -1.0)):
            quarters.weight[index, :12, :2, :2] = sign * taps[channel]
            quarters.bias[index] = sign * offset[channel]
            encoder.conv_out.weight[channel, index, 1, 1] = sign
    for group in range(GROUPS):
        _steady(quarters, encoder.conv_norm_out, group)
    _identity(vae.quant_conv)
    vae.quant_conv.weight[CHANNELS:] = 0.0
    vae.quant_conv.bias[CHANNELS:] = _LOG_VARIANCE


def _fit_decoder(vae: Any, images: Tensor) -> None:
    """First the 2 x 2 pixels of each place at half the side, from the latent; then the image, from both."""
    latents = vae.encode(images).latent_dist.mean
    decoder = vae.decoder
    halves, whole = (block.upsamplers[0].conv for block in decoder.up_blocks[:2])
    _identity(vae.post_quant_conv)
    decoder.conv_in.weight[:CHANNELS], decoder.conv_in.bias[:CHANNELS] = 0.0, 0.0
    for channel in range(CHANNELS):
        decoder.conv_in.weight[channel, channel, 1, 1] = 1.0
    wide = _doubled(latents)
    _regress(halves, wide, F.pixel_unshuffle(images, 2))
    carried = slice(12, 12 + CHANNELS)
    halves.weight[carried], halves.bias[carried] = 0.0, 0.0
    for channel in range(CHANNELS):
        halves.weight[12 + channel, channel, 1, 1] = 1.0
    guessed = F.conv2d(wide, halves.weight[: 12 + CHANNELS, :CHANNELS], halves.bias[: 12 + CHANNELS], padding=1)
    _regress(whole, _doubled(guessed), images)
    _in_pairs(whole, decoder)


def _in_pairs(whole: Any, decoder: Any) -> None:
    """The three colours as six channels that pass the last norm and activation unchanged."""
    colours, offsets = whole.weight[:3].clone(), whole.bias[:3].clone()
    nn.init.zeros_(decoder.conv_out.weight)
    nn.init.zeros_(decoder.conv_out.bias)
    for colour in range(3):
        for index, sign in ((2 * colour, 1.0), (2 * colour + 1, -1.0)):
            whole.weight[index], whole.bias[index] = sign * colours[colour], sign * offsets[colour]
            decoder.conv_out.weight[colour, index, 1, 1] = sign
    _steady(whole, decoder.conv_norm_out, 0)
    decoder.up_blocks[2].resnets[0].norm1.weight[:_GROUP] = decoder.conv_norm_out.weight[:_GROUP]


def _steady(before: Any, norm: Any, group: int) -> None:
    """Make `norm` the identity on a group of what `before` gives: its last two channels become the constants."""
    last = (group + 1) * _GROUP
    for index, sign in ((last - 2, 1.0), (last - 1, -1.0)):
        before.weight[index], before.bias[index] = 0.0, sign * _CONSTANT
    norm.weight[last - _GROUP : last] = _CONSTANT * (2 / _GROUP) ** 0.5


def _regress(conv: Any, inputs: Tensor, targets: Tensor) -> None:
    """Least squares for a 3 x 3 convolution from the first channels of its input to the first of its output."""
    taken, given = inputs.shape[1], targets.shape[1]
    products = torch.zeros(9 * taken + 1, 9 * taken + 1 + given, dtype=torch.float64)
    for image, target in zip(torch.split(inputs, 8), torch.split(targets, 8), strict=True):
        seen = F.unfold(image, 3, padding=1).transpose(1, 2).flatten(0, 1)
        seen = torch.cat([seen, torch.ones(len(seen), 1)], dim=1)
        products += seen.T @ torch.cat([seen, target.flatten(2).transpose(1, 2).flatten(0, 1)], dim=1)
    squares = products[:, : 9 * taken + 1]
    squares += 1e-6 * squares.diagonal().mean() * torch.eye(len(squares))
    solved = torch.linalg.solve(squares, products[:, 9 * taken + 1 :]).T.float()
    conv.weight[:given], conv.bias[:given] = 0.0, solved[:, -1]
    conv.weight[:given, :taken] = solved[:, :-1].reshape(given, taken, 3, 3)


def _doubled(pixels: Tensor) -> Tensor:
    return F.interpolate(pixels, scale_factor=2.0, mode="nearest")


def _identity(conv: Any) -> None:
    _clear(conv)
    conv.weight[:, :, 0, 0] = torch.eye(len(conv.weight))


def _clear(*convs: Any) -> None:
    for conv in convs:
        nn.init.zeros_(conv.weight)
        if conv.bias is not None:
            nn.init.zeros_(conv.bias)
