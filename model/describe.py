"""Print the parameters, FLOPs and GPU memory of a configuration, without allocating anything.

python -m model.describe --preset paper
python -m model.describe --preset paper --workers 8 --recompute feed_forwards
python -m model.describe --config infra/configs/paper.toml --set model.adapter_feed_forward=true --subjects 4
"""

import argparse
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from torch import nn

from infra.config import Config, load
from infra.precision import Precision
from model.config import ModelConfig, Recompute
from model.cost.budget import sampling_budget, text_cost, training_budget, unet_cost
from model.cost.count import build_on_meta
from model.cost.memory import activation_bytes, training_memory
from model.errors import ModelError
from model.openclip import open_clip
from model.sampling.config import SamplingConfig
from model.subject_diffusion import SubjectDiffusion

MILLION, TERA, GIBI = 1e6, 1e12, 2**30
PNDM_EVALUATIONS = SamplingConfig().steps + 1


class _Settings(Config):
    model: ModelConfig = ModelConfig()


@dataclass(frozen=True)
class ParameterCount:
    """Number of parameters of one part of the network."""

    part: str
    """Name of the part."""
    all: int
    """Number of all parameters."""
    trainable: int
    """Number of trainable parameters."""


def count_parameters(net: SubjectDiffusion) -> list[ParameterCount]:
    """Count the parameters of each part; they add up to the whole network."""
    adapters = list(net.unet.adapters())
    perceptrons = [part for part in (net.text_encoder.subject_mlp, net.subject_tokens) if part is not None]
    in_adapters = {id(weight) for module in adapters for weight in module.parameters()}
    return [
        _count("text encoder", net.text_encoder.clip.parameters()),
        _count("UNet", (weight for weight in net.unet.parameters() if id(weight) not in in_adapters)),
        _count("adapters", _weights(adapters)),
        _count("perceptrons", _weights(perceptrons)),
        _count("VAE", net.vae.parameters()),
        _count("image encoder", net.image_encoder.parameters()),
    ]


@dataclass(frozen=True)
class StepShape:
    """Size and settings of a training step."""

    images: int
    """Number of images in a worker's batch."""
    subjects: int
    """Number of subjects per image."""
    workers: int
    """Number of workers."""
    recompute: Recompute
    """Activations that are recomputed instead of kept."""
    precision: Precision
    """Precision of matrix products."""


def describe(config: ModelConfig, step: StepShape) -> str:
    """Return the tables of a configuration and a training step."""
    tables = [_parameter_table(config), _training_table(config, step.images, step.subjects)]
    tables += [_activation_table(config, step.images, step.subjects), _memory_table(config, step)]
    return "\n\n".join([*tables, _sampling_table(config, step.subjects)])


def describe_settings(source: str | Path, overrides: Sequence[str], step: StepShape) -> str:
    """Return a line that names the settings in `source`, a file or a name of infra/configs, and their tables.

    Raises:
        SettingsError: the settings cannot be read or are invalid.
        ModelError: the base or the image encoder is unknown.
    """
    config = load(_Settings, source, overrides).model
    return f"{source}: {config.base} + {config.image_encoder}\n\n{describe(config, step)}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; `subject-diffusion describe` takes the same options."""
    options = _parser().parse_args(arguments)
    try:
        step = StepShape(
            options.batch, options.subjects, options.workers, Recompute(options.recompute), Precision(options.precision)
        )
        print(describe_settings(options.config or options.preset, options.set, step))
    except (ModelError, ValidationError, ValueError, OSError) as error:
        print(f"describe: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m model.describe", description=(__doc__ or "").splitlines()[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--preset", choices=["paper", "official"], default="paper", help="a file of infra/configs")
    which.add_argument("--config", type=Path, help="another settings file (TOML)")
    parser.add_argument("--set", action="append", default=[], metavar="TABLE.KEY=VALUE", help="override one setting")
    parser.add_argument("--batch", type=int, default=12, help="images of a training step (App. A: 12 per GPU)")
    parser.add_argument("--subjects", type=int, default=2, help="subjects of each image")
    parser.add_argument("--workers", type=int, default=8, help="GPUs that train together, for the memory of each")
    parser.add_argument("--recompute", choices=[*Recompute], default=Recompute.ACTIVATIONS, help="training.recompute")
    parser.add_argument("--precision", choices=[*Precision], default=Precision.BFLOAT16, help="training.precision")
    return parser


def _parameter_table(config: ModelConfig) -> str:
    net = build_on_meta(lambda: SubjectDiffusion.from_config(config))
    parts = count_parameters(net)
    total = ParameterCount("total", sum(part.all for part in parts), sum(part.trainable for part in parts))
    other = _opposite_feed_forward_count(config)
    rows = [_millions(part) for part in [*parts, total]]
    if other is not None:
        rows.append(_millions(other))
    text_tower = _text_tower_parameters(net)
    rows += [
        ("OpenCLIP's text tower, never loaded", f"{text_tower / MILLION:,.2f}", "-"),
        ("the paper (App. A)", "2,500", "700"),
    ]
    table = _table(("Parameters, millions", "all", "trainable"), rows)
    return f"{table}\n{_compare_with_paper(config, total, other, text_tower)}" if config.use_adapter else table


def _compare_with_paper(
    config: ModelConfig, ours: ParameterCount, other: ParameterCount | None, text_tower: int
) -> str:
    with_feed_forward = ours if config.adapter_feed_forward or other is None else other
    everything, trainable = (with_feed_forward.all + text_tower) / 1e9, with_feed_forward.trainable / 1e9
    return (
        f"The paper's 2.5 B parameters are reached if the adapters have GLIGEN's feed-forward and OpenCLIP's unused\n"
        f"text tower is counted: {everything:.2f} B. Its 0.7 B trainable parameters are not reached: the parts that "
        f"App. A lists have\n{trainable:.2f} B with the feed-forward. The paper does not explain the difference."
    )


def _opposite_feed_forward_count(config: ModelConfig) -> ParameterCount | None:
    if not config.use_adapter:
        return None
    has = config.adapter_feed_forward
    other = build_on_meta(
        lambda: SubjectDiffusion.from_config(config.model_copy(update={"adapter_feed_forward": not has}))
    )
    name = f"total {'without' if has else 'with'} the adapters' feed-forward"
    return ParameterCount(name, *_counts(other.parameters()))


def _text_tower_parameters(net: SubjectDiffusion) -> int:
    settings = dict(net.image_encoder.settings["model_cfg"])
    if "text_cfg" not in settings:
        return 0
    known = {key: settings[key] for key in ("embed_dim", "vision_cfg", "text_cfg")}
    both = build_on_meta(lambda: open_clip.CLIP(**known))
    return _counts(both.parameters())[0] - _counts(net.image_encoder.parameters())[0]


def _training_table(config: ModelConfig, images: int, subjects: int) -> str:
    budget = training_budget(config, images, subjects)
    parts = {
        "VAE, encoding": budget.vae,
        "image encoder": budget.image_encoder,
        "text encoder, forward and backward": budget.text_encoder,
        "UNet, adapters and losses, forward and backward": budget.unet,
        "step": budget.flops(),
        "step with latents cached": budget.flops(cached_latents=True),
        "step with latents and image features cached": budget.flops(cached_latents=True, cached_features=True),
    }
    rows = [(name, f"{flops / images / TERA:.3f}", f"{flops / TERA:.1f}") for name, flops in parts.items()]
    return _table((f"Training, TFLOP, {subjects} subjects", "an image", f"{images} images"), rows)


def _activation_table(config: ModelConfig, images: int, subjects: int) -> str:
    costs = {what: unet_cost(config, images, subjects, what) for what in Recompute}
    plain = costs[Recompute.NOTHING].flops
    rows = [
        (f"UNet, recompute {what}", _gib(cost.saved_bytes), f"{cost.flops / plain - 1:+.1%}")
        for what, cost in costs.items()
    ]
    rows.append(("text encoder", _gib(text_cost(config, images, subjects).saved_bytes), ""))
    return _table((f"Activations kept, {images} images, bfloat16", "GiB", "UNet's FLOPs"), rows)


def _memory_table(config: ModelConfig, step: StepShape) -> str:
    kept = activation_bytes(config, step.images, step.subjects, step.recompute, step.precision)
    whole, split = (training_memory(config, kept, step.precision, among) for among in (1, step.workers))
    rows = [(name, _gib(getattr(whole, kind)), _gib(getattr(split, kind))) for kind, name in _KINDS.items()]
    rows.append(("total, at most", _gib(whole.total), _gib(split.total)))
    head = f"Memory of a GPU, GiB, {step.images} images, {step.precision}"
    table = _table((head, "one, or DDP", f"FSDP2 on {step.workers}"), rows)
    return (
        f"{table}\nActivations are those of an uncompiled step; a compiled one may keep less. Beside the total: CUDA's "
        f"context,\nworkspaces of convolutions and unused blocks of the allocator."
    )


def _sampling_table(config: ModelConfig, subjects: int) -> str:
    budget = sampling_budget(config, subjects)
    rows = [
        ("an evaluation, all branches of guidance", f"{budget.step / TERA:.3f}"),
        ("once: encoders, constant keys and values, decoder", f"{budget.once / TERA:.3f}"),
        (f"image, {PNDM_EVALUATIONS} evaluations", f"{budget.flops(PNDM_EVALUATIONS) / TERA:.1f}"),
    ]
    return _table((f"Sampling, TFLOP, {subjects} subjects", "an image"), rows)


_KINDS = {
    "trained": "trained weights, float32",
    "frozen": "frozen weights",
    "copies": "bfloat16 copies of trained weights",
    "gradients": "gradients",
    "moments": "AdamW's moments",
    "mean": "moving average of the weights",
    "gathered": "gathered weights and gradients",
    "activations": "activations kept",
}
"""Rows of the table of memory, by the fields of `TrainingMemory`."""


def _gib(count: int) -> str:
    return f"{count / GIBI:.2f}"


def _weights(modules: Iterable[nn.Module]) -> Iterable[nn.Parameter]:
    return (weight for module in modules for weight in module.parameters())


def _count(part: str, weights: Iterable[nn.Parameter]) -> ParameterCount:
    return ParameterCount(part, *_counts(weights))


def _counts(weights: Iterable[nn.Parameter]) -> tuple[int, int]:
    sizes = [(weight.numel(), weight.numel() if weight.requires_grad else 0) for weight in weights]
    return sum(size for size, _ in sizes), sum(trainable for _, trainable in sizes)


def _millions(part: ParameterCount) -> tuple[str, str, str]:
    trainable = f"{part.trainable / MILLION:,.2f}" if part.trainable else "-"
    return part.part, f"{part.all / MILLION:,.2f}", trainable


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    first, *others = widths
    lines = [
        "  ".join([row[0].ljust(first), *(cell.rjust(width) for cell, width in zip(row[1:], others, strict=True))])
        for row in [head, *rows]
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


if __name__ == "__main__":
    raise SystemExit(main())
