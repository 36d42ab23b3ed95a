"""Time training steps and sampling on one GPU, against the naive baselines, with random weights.

    python -m tests.benchmarks.gpu_model --out docs/benchmarks/model-gpu.md
    python -m tests.benchmarks.gpu_model --device cpu --size small --no-compile --rounds 1     # checks the script

The contestants run one after the other in one process, on a warm card, each with the card's memory to itself. N and S
are those of `tests/benchmarks/naive.py`, under bf16 autocast with weights in float32. Ours has frozen weights in
bfloat16, channels last, a compiled UNet and fused AdamW. "Cached" uses cached latents of the VAE on both sides.
"""

import argparse
import contextlib
import gc
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from infra.precision import Precision
from model.config import ModelConfig, Recompute
from model.cost.budget import training_budget
from model.cost.recompute import enable_recompute
from model.inputs.batch import SubjectBatch
from model.inputs.prompt import Prompt
from model.pipeline import Subject, SubjectDiffusionPipeline
from model.sampling.config import SamplingConfig
from model.sampling.denoising import sample
from model.sampling.guidance import Guidance
from model.sampling.schedulers import make_scheduler
from model.subject_diffusion import SubjectDiffusion
from model.weights.bases import Base, find_base
from model.weights.folders import random_parts
from tests.benchmarks.naive import NaiveModel
from tests.small_model import small_config

LABELS = ("dog", "cat", "duck", "can")


@dataclass(frozen=True)
class Setup:
    """Model, device and size of the measurement."""

    config: ModelConfig
    device: torch.device
    images: int
    subjects: int
    compiled: bool
    recompute: Recompute

    @property
    def base(self) -> Base:
        return find_base(self.config.base)

    @property
    def labels(self) -> list[str | None]:
        return list(LABELS[: self.subjects])


@dataclass(frozen=True)
class Measurement:
    """Time and memory of one contestant."""

    name: str
    seconds: float
    """Median seconds of a round."""
    peak_gib: float
    """Largest allocation in GiB; 0 on the CPU."""


Work = Callable[[], None]


def naive_step(setup: Setup, fused: bool, cached: bool) -> Work:
    """Prepare a training step of N, or of S with `fused`."""
    torch.manual_seed(0)
    with setup.device:
        net = NaiveModel(setup.base, random_parts(setup.config).visual, fused)
    batch = naive_batch(setup, net, cached)
    optimizer = torch.optim.AdamW([w for w in net.parameters() if w.requires_grad], lr=3e-5)

    def step() -> None:
        with bfloat16(setup.device):
            loss = net.loss(batch)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_step(setup: Setup, cached: bool, maps: bool = True) -> Work:
    config = setup.config.model_copy(update={"use_attention_control": maps})
    net = build_network(setup, config)
    net.cast_frozen(Precision.BFLOAT16)
    net.unet.to(memory_format=torch.channels_last)
    enable_recompute(net.unet, setup.recompute)
    if setup.compiled:
        net.unet.compile()
    batch = our_batch(setup, net, cached)
    optimizer = torch.optim.AdamW([w for w in net.parameters() if w.requires_grad], lr=3e-5, fused=True)

    def step() -> None:
        with bfloat16(setup.device):
            loss = net.training_loss(batch).total
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    return step


def naive_image(setup: Setup) -> Work:
    """Prepare an image of N in bfloat16: three branches in sequence, adapters on in all, nothing cached."""
    with setup.device:
        net = NaiveModel(setup.base, random_parts(setup.config).visual).to(torch.bfloat16).eval()
    batch = naive_batch(setup, net, cached=True)
    latent, pictures, tokens = batch["z_0"][:1].bfloat16(), batch["pictures"][:1].bfloat16(), batch["token_ids"][:1]
    guidance = Guidance()

    @torch.no_grad()
    def image() -> None:
        text, empty = (net.text_encoder(ids).last_hidden_state for ids in (tokens, torch.zeros_like(tokens)))
        objects = net.perceptron(net.patches(pictures))

        def denoise(z_t: Tensor, t: float) -> Tensor:
            def eps(words: Tensor, image_tokens: Tensor) -> Tensor:
                rows = torch.cat([z_t, z_t[:, :1]], dim=1).bfloat16()
                prediction: Tensor = net.unet(rows, torch.full((1,), t, device=rows.device), words, image_tokens)
                return prediction.float()

            full, of_image, neither = eps(text, objects), eps(empty, objects), eps(empty, torch.zeros_like(objects))
            return neither + guidance.image * (of_image - neither) + guidance.text * (full - of_image)

        z_0 = sample(denoise, make_scheduler("PNDM", setup.base.scheduler), latent.float(), [], SamplingConfig().steps)
        net.vae.decode(z_0.bfloat16() / net.vae.config.scaling_factor)

    return image


def our_image(setup: Setup) -> Work:
    """Prepare an image from the pipeline, from pictures to pixels."""
    pipeline = SubjectDiffusionPipeline.from_network(build_network(setup, setup.config))
    pipeline.to(setup.device, torch.bfloat16)
    pipeline.set_progress_bar_config(disable=True)
    if setup.compiled:
        pipeline.unet.compile()
    picture, mask = np.zeros((512, 512, 3), dtype=np.uint8), np.zeros((512, 512), dtype=bool)
    mask[100:400, 150:350] = True
    subjects = [Subject(picture, label, mask) for label in LABELS[: setup.subjects]]
    return lambda: ignore(pipeline("a photo on the beach", subjects))


def build_network(setup: Setup, config: ModelConfig) -> SubjectDiffusion:
    torch.manual_seed(0)
    with setup.device:
        net = SubjectDiffusion.from_config(config)
    for name, weight in net.named_parameters():
        if name.endswith("gamma"):
            nn.init.constant_(weight, 0.3)
    return net.to(setup.device)


def naive_batch(setup: Setup, net: NaiveModel, cached: bool) -> dict[str, Tensor]:
    images, latent, pictures, ids, entities, masks = tensors(setup, net.visual.image_size[0])
    latents = {"z_0": latent} if cached else {"pixels": images / 127.5 - 1}
    return {**latents, "pictures": pictures / 255, "token_ids": ids, "entities": entities, "masks": masks}


def our_batch(setup: Setup, net: SubjectDiffusion, cached: bool) -> SubjectBatch:
    images, latent, pictures, _, _, masks = tensors(setup, net.image_encoder.side_px)
    prompts = net.prompts([Prompt("a photo", setup.labels)] * setup.images)
    batch = SubjectBatch(
        prompts=prompts,
        boxes=torch.tensor([[0.1, 0.2, 0.6, 0.9]]).expand(setup.images, setup.subjects, 4),
        masks=masks[:, : setup.subjects],
        present=torch.ones(setup.images, setup.subjects, dtype=torch.bool),
        images=None if cached else images.byte(),
        latent_moments=torch.cat([latent, latent], dim=1) if cached else None,
        subject_images=pictures.byte(),
        full=True,
    )
    return batch.to(setup.device)


def tensors(setup: Setup, picture_px: int) -> tuple[Tensor, ...]:
    """Return images and pictures in 0 to 255, latents, token ids, entity tokens and masks."""
    torch.manual_seed(1)
    count, base, slots = setup.images, setup.base, setup.subjects
    side, text = base.unet["sample_size"], base.text_encoder.get("max_position_embeddings", 77)
    with setup.device:
        return (
            torch.rand(count, 3, base.image_side, base.image_side) * 255,
            torch.randn(count, 4, side, side),
            torch.rand(count, slots, 3, picture_px, picture_px) * 255,
            torch.randint(1000, (count, text)),
            torch.eye(text)[None, 5 : 5 + 2 * slots].expand(count, -1, -1),
            (torch.rand(count, 2 * slots, side, side) > 0.5).float(),
        )


def bfloat16(device: torch.device) -> contextlib.AbstractContextManager[object]:
    return torch.autocast(device.type, torch.bfloat16)


def ignore(_: object) -> None:
    """Discard a result."""


def measure(name: str, prepare: Callable[[], Work], setup: Setup, warm_up: int, rounds: int) -> Measurement:
    """Measure the work that `prepare` returns; its memory is freed before the next measurement."""
    with empty_memory(setup.device) as peak_gib:
        work = prepare()
        seconds = [time_once(work, setup.device) for _ in range(warm_up + rounds)][warm_up:]
        result = Measurement(name, statistics.median(seconds), peak_gib())
    print(f"{name}: {result.seconds:.4f} s, {result.peak_gib:.1f} GiB", flush=True)
    return result


@contextlib.contextmanager
def empty_memory(device: torch.device) -> Iterator[Callable[[], float]]:
    gc.collect()
    if device.type != "cuda":
        yield lambda: 0.0
        return
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    yield lambda: torch.cuda.max_memory_allocated() / 2**30


def time_once(work: Work, device: torch.device) -> float:
    synchronize(device)
    start = time.perf_counter()
    work()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure_all(setup: Setup, warm_up: int, rounds: int) -> dict[str, Measurement]:
    contestants: dict[str, Callable[[], Work]] = {
        "N": lambda: naive_step(setup, fused=False, cached=False),
        "S": lambda: naive_step(setup, fused=True, cached=False),
        "S, latents cached": lambda: naive_step(setup, fused=True, cached=True),
        "ours": lambda: our_step(setup, cached=False),
        "ours, latents cached": lambda: our_step(setup, cached=True),
        "ours, latents cached, no map loss": lambda: our_step(setup, cached=True, maps=False),
        "image, N": lambda: naive_image(setup),
        "image, ours": lambda: our_image(setup),
    }
    return {name: measure(name, prepare, setup, warm_up, rounds) for name, prepare in contestants.items()}


def report(setup: Setup, measurements: dict[str, Measurement], peak_tflops: float) -> str:
    """Return the figures and the gates as Markdown."""
    flops = training_budget(setup.config, setup.images, setup.subjects).flops(cached_latents=True) / 1e12
    seconds = {name: one.seconds for name, one in measurements.items()}
    cached = seconds["ours, latents cached"]
    maps = 1 - seconds["ours, latents cached, no map loss"] / cached
    memory = measurements["ours"].peak_gib / max(measurements["N"].peak_gib, 1e-9)
    gates = [
        ("G1", "step of N by ours with latents cached", seconds["N"] / cached, "≥ 2.5"),
        ("G2", "step of S by ours, latents cached", seconds["S, latents cached"] / cached, "≥ 1.6"),
        ("G2", "step of S by ours, encoders online", seconds["S"] / seconds["ours"], "≥ 1.25"),
        ("G3", "peak memory of ours by N's", memory, "≤ 0.5"),
        ("G4", "TFLOP/s, latents cached", flops / cached, "≥ 277"),
        ("G4", f"the same as a share of {peak_tflops:g}", flops / cached / peak_tflops, "≥ 0.28"),
        ("G5", "map loss, share of a step", maps, "≤ 0.02"),
        ("G6", "image of N by ours", seconds["image, N"] / seconds["image, ours"], "≥ 2.5"),
        ("G6", "image, seconds", seconds["image, ours"], "≤ 0.6"),
    ]
    lines = [
        f"{device_name(setup.device)}, torch {torch.__version__}, {setup.images} images of {setup.subjects} subjects, "
        f"compiled: {setup.compiled}, recompute: {setup.recompute}, base: {setup.config.base}",
        "",
        "| contestant | seconds | peak GiB |",
        "|---|---|---|",
        *(f"| {one.name} | {one.seconds:.4f} | {one.peak_gib:.1f} |" for one in measurements.values()),
        "",
        "| gate | figure | found | wanted |",
        "|---|---|---|---|",
        *(f"| {gate} | {what} | {figure:.3f} | {wanted} |" for gate, what, figure, wanted in gates),
    ]
    return "\n".join(lines) + "\n"


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {platform.machine()}"


def main(arguments: Sequence[str] | None = None) -> None:
    options = _parser().parse_args(arguments)
    config = ModelConfig(adapter_feed_forward=True)
    if options.size == "small":
        config = small_config(options.folder, adapter_feed_forward=True)
    setup = Setup(
        config, torch.device(options.device), options.images, options.subjects, options.compile, options.recompute
    )
    text = report(setup, measure_all(setup, options.warm_up, options.rounds), options.peak_tflops)
    print(text)
    if options.out is not None:
        options.out.write_text(text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--size", choices=["full", "small"], default="full")
    parser.add_argument("--folder", type=Path, default=Path("out/small"), help="where the small base is written")
    parser.add_argument("--images", type=int, default=12)
    parser.add_argument("--subjects", type=int, default=2)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--recompute", type=Recompute, choices=list(Recompute), default=Recompute.NOTHING)
    parser.add_argument("--peak-tflops", type=float, default=989.0, help="of the card, dense bfloat16")
    parser.add_argument("--out", type=Path, help="Markdown file for the result")
    return parser


if __name__ == "__main__":
    main()
