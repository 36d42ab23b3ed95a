"""Trains a small network of the miniature world, with one loop for all networks.

    python -m miniature.train sam --out out/weights/sam

A network's recipe (such as `miniature/training/sam.toml`) is a list of phases; `miniature.training` has the data and
the loss of each. The batch of a step depends only on the recipe's seed, the phase and the step. Therefore a resumed run
gives the same weights as an uninterrupted one, and on one machine the same seed gives the same weights. Schedules count
steps, not seconds.

    OUT/checkpoint.pt     last checkpoint: weights, optimisers, random state, phase and step
    OUT/metrics.jsonl     logged losses and validations, with CPU seconds
    OUT/weights/          network in its library's folder layout, half precision, after the last phase
"""

import argparse
import hashlib
import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeVar

import cv2
import psutil
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from infra.config import Config, load
from infra.ranges import Count, Factor, Rate, RateOrZero, Share, Steps
from miniature.cli_errors import exit_on_bad_input
from miniature.training.muon import Muon
from miniature.world.sprites import LIST

log = logging.getLogger("miniature.training.train")
NETWORKS = ("sam", "grounding_dino", "blip2", "latent", "image_encoder", "base", "judge", "embedder", "shape_embedder")
CUDA_NETWORKS = frozenset({"embedder", "shape_embedder"})
"""Networks whose losses run on a GPU."""


class RecipeMismatch(Exception):
    """A checkpoint belongs to another recipe; the message names the remedy."""


class Phase(Config):
    """Length and optimisers of a phase of training."""

    steps: Steps
    """Number of steps."""
    batch_size: Count = 16
    """Number of examples in a batch."""
    learning_rate: Rate
    """Highest learning rate of AdamW."""
    muon_rate: RateOrZero = 0.0
    """Highest learning rate of Muon, which trains the matrices of linear layers; 0 trains all weights with AdamW."""
    muon_convolutions: tuple[str, ...] = ()
    """Prefixes of the names of convolutions whose kernels Muon trains too."""
    rates: dict[str, Factor] = Field(default={})
    """Factors of the learning rate by prefix of the parameters' names; 0 freezes the parameters."""
    warmup_steps: Steps = 100
    """Number of steps over which the learning rate rises linearly from zero."""
    last_share: Share = 0.03
    """Share of the highest learning rate at the end of the phase, after a half cosine; 0 ends at zero."""
    weight_decay: RateOrZero = 0.01
    """Decoupled weight decay per step, as a factor of the learning rate; 0 applies none."""
    clip_norm: float = Field(default=1.0, gt=0, le=1000)
    """Largest norm of the gradients of all weights together."""


BatchT = TypeVar("BatchT")
BatchT_co = TypeVar("BatchT_co", covariant=True)


class Data(Protocol[BatchT_co]):
    """Makes batches. It is sent to worker processes, so it holds no network."""

    def __call__(self, seed: Sequence[int], size: int) -> BatchT_co:
        """Return a batch of `size` examples that depends on `seed` alone."""


class Task(Protocol[BatchT]):
    """Data, losses and validation of a phase."""

    @property
    def name(self) -> str:
        """Name of the phase in the log."""

    @property
    def net(self) -> nn.Module:
        """Network, which all phases share."""

    @property
    def heads(self) -> nn.Module:
        """Auxiliary modules that the phase trains and that are not saved with the network."""

    @property
    def data(self) -> Data[BatchT]:
        """Training data."""

    def loss(self, batch: BatchT) -> dict[str, Tensor]:
        """Return the weighted terms of the loss; their sum is minimised."""

    def validate(self) -> dict[str, float]:
        """Return figures for scenes that are not used for training."""

    def finish(self) -> None:
        """Copy results that the phase trained outside of `net` into it."""


class Recipe(Protocol):
    """Phases of a network's training."""

    def tasks(self) -> Sequence[tuple[Phase, Task[Any]]]:
        """Return the phases in order; all train the same `net`."""

    def save(self, folder: Path) -> None:
        """Write the network in half precision, with its processor, in its library's layout."""


@dataclass(frozen=True, slots=True)
class Intervals:
    """Numbers of steps between log lines, validations and checkpoints. They do not affect the weights."""

    log: int = 50
    validate: int = 250
    checkpoint: int = 100


def train(
    recipe: Recipe,
    seed: int,
    out: Path,
    workers: int = 0,
    intervals: Intervals = Intervals(),
    device: str = "cpu",
) -> dict[str, float]:
    """Run the rest of the recipe, from the checkpoint in `out` if there is one, and return the last validation.

    A checkpoint can be resumed on another device.

    Raises:
        RecipeMismatch: the checkpoint belongs to other phases, another seed or other sprites.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    tasks = recipe.tasks()
    recipe_id = _recipe_id(seed, [phase for phase, _ in tasks])
    saved = _load(out / "checkpoint.pt", recipe_id)
    first = saved["phase"] if saved else 0
    if saved:
        tasks[0][1].net.load_state_dict(saved["net"])
    figures: dict[str, float] = {}
    for index, (phase, task) in enumerate(tasks[first:], start=first):
        task.net.to(device)
        task.heads.to(device)
        run = _PhaseRun(phase, task, (seed, index), out, recipe_id)
        if saved and index == first:
            run.restore(saved)
        figures = run.run(workers, intervals)
    recipe.save(out / "weights")
    return figures


class _PhaseRun:
    """Runs one phase from its first step, or from a checkpoint, to its end."""

    def __init__(self, phase: Phase, task: Task[Any], seed: tuple[int, int], out: Path, recipe_id: str) -> None:
        self.phase, self.task, self.seed, self.out, self.recipe_id = phase, task, seed, out, recipe_id
        self.optimisers = optimisers(task, phase)
        self.step = 0
        self.cpu_s = 0.0
        self._cpu_start = cpu_s()

    def run(self, workers: int, intervals: Intervals) -> dict[str, float]:
        """Train to the end of the phase and return the figures of the last validation."""
        mean = _Mean()
        for batch in self._batches(workers):
            mean.add(self._update(batch))
            self.step += 1
            if self.step % intervals.log == 0:
                self._report("train", mean.take())
            if self.step % intervals.validate == 0 and self.step < self.phase.steps:
                self._report("validate", self._validate())
            if self.step % intervals.checkpoint == 0 or self.step == self.phase.steps:
                self._save()
        self.task.finish()
        self._save()
        figures = self._validate()
        self._report("validate", figures)
        return figures

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Restore the state of this phase from a checkpoint."""
        self.task.heads.load_state_dict(saved["heads"])
        for optimiser, state in zip(self.optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        torch.set_rng_state(saved["random"])
        self.step, self.cpu_s = saved["step"], saved["cpu_s"]
        log.info("%s resumes at step %d of %d", self.task.name, self.step, self.phase.steps)

    def _batches(self, workers: int) -> Iterator[object]:
        steps, remaining = _Steps(self.task.data, self.seed, self.phase), range(self.step, self.phase.steps)
        cv2.setNumThreads(1)  # before workers start: a forked worker hangs when it ends an inherited pool of threads
        own = torch.Generator()  # otherwise the loader would draw from the random state that checkpoints hold
        return iter(DataLoader(steps, batch_size=None, sampler=remaining, num_workers=workers, generator=own))

    def _update(self, batch: object) -> dict[str, float]:
        for module in (self.task.net, self.task.heads):
            module.train()
        share = rate_at(self.step, self.phase)
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = group["full_rate"] * share
        terms = self.task.loss(batch)
        total = torch.stack(list(terms.values())).sum()
        total.backward()  # type: ignore[no-untyped-call]  # torch annotates no backward
        trained = [p for o in self.optimisers for group in o.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(trained, self.phase.clip_norm)
        for optimiser in self.optimisers:
            optimiser.step()
        return {"loss": float(total.detach()), **{name: float(term.detach()) for name, term in terms.items()}}

    def _validate(self) -> dict[str, float]:
        for module in (self.task.net, self.task.heads):
            module.eval()
        with torch.inference_mode():
            return self.task.validate()

    def _report(self, kind: str, figures: Mapping[str, float]) -> None:
        seconds = self.cpu_s + cpu_s() - self._cpu_start
        line = {"kind": kind, "phase": self.task.name, "step": self.step, "cpu_s": round(seconds, 1)}
        rounded = {name: round(value, 4) for name, value in figures.items()}
        with (self.out / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line | rounded) + "\n")
        text = "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
        log.info("%s %d/%d  %s  %.0f CPU s  %s", self.task.name, self.step, self.phase.steps, kind, seconds, text)

    def _save(self) -> None:
        path = self.out / "checkpoint.pt"
        state = {
            "made_by": self.recipe_id,
            "phase": self.seed[1],
            "step": self.step,
            "cpu_s": self.cpu_s + cpu_s() - self._cpu_start,
            "net": self.task.net.state_dict(),
            "heads": self.task.heads.state_dict(),
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
            "random": torch.get_rng_state(),
        }
        torch.save(state, path.with_suffix(".tmp"))
        os.replace(path.with_suffix(".tmp"), path)


class _Steps(Dataset[object]):
    """Batches by step."""

    def __init__(self, data: Data[object], seed: tuple[int, int], phase: Phase) -> None:
        self.data, self.seed, self.size = data, seed, phase.batch_size

    def __getitem__(self, step: int) -> object:
        return self.data((*self.seed, step), self.size)


class _Mean:
    """Means of values by name since the last call of `take`."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.count = 0

    def add(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1

    def take(self) -> dict[str, float]:
        means = {name: value / self.count for name, value in self.sums.items()}
        self.sums, self.count = {}, 0
        return means


def rate_at(step: int, phase: Phase) -> float:
    """Return the share of the highest learning rate at a step: a linear rise, then a half cosine."""
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, step / phase.steps)))
    return min(1.0, (step + 1) / phase.warmup_steps) * (phase.last_share + (1 - phase.last_share) * fall)


def optimisers(task: Task[Any], phase: Phase) -> list[Optimizer]:
    """Return Muon for its matrices, if the phase uses it, and AdamW for all other parameters; only matrices decay.

    Parameters with rate 0 are frozen, all others are unfrozen.
    """
    matrices = _matrices(task.net, phase.muon_convolutions) if phase.muon_rate else set()
    groups: dict[tuple[bool, bool, float], list[nn.Parameter]] = {}
    for name, parameter in [*task.net.named_parameters(), *task.heads.named_parameters()]:
        factor = next((f for prefix, f in phase.rates.items() if name.startswith(prefix)), 1.0)
        parameter.requires_grad_(factor > 0)
        if factor > 0:
            groups.setdefault((parameter in matrices, parameter.ndim > 1, factor), []).append(parameter)
    adam = [
        {"params": ps, "full_rate": f * phase.learning_rate, "weight_decay": phase.weight_decay * decays}
        for (muon, decays, f), ps in groups.items()
        if not muon
    ]
    muon = [{"params": ps, "full_rate": f * phase.muon_rate} for (is_muon, _, f), ps in groups.items() if is_muon]
    used: list[Optimizer] = [torch.optim.AdamW(adam, lr=phase.learning_rate, betas=(0.9, 0.98))]
    if muon:
        used.append(Muon(muon, lr=phase.muon_rate, weight_decay=phase.weight_decay))
    return used


def _matrices(net: nn.Module, convolutions: tuple[str, ...]) -> set[Tensor]:
    """Return the weights of linear layers that are not shared with embeddings, and those of the named convolutions."""
    embeddings = {id(m.weight) for m in net.modules() if isinstance(m, nn.Embedding)}
    linear = {m.weight for m in net.modules() if isinstance(m, nn.Linear) and id(m.weight) not in embeddings}
    named = {m.weight for n, m in net.named_modules() if isinstance(m, nn.Conv2d) and n.startswith(convolutions)}
    return linear | named


def cpu_s() -> float:
    """Return the CPU seconds of this process and its workers, running or ended."""
    times = os.times()
    total = times.user + times.system + times.children_user + times.children_system
    for worker in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            total += sum(worker.cpu_times()[:2])
    return total


def _recipe_id(seed: int, phases: Sequence[Phase]) -> str:
    """Return a hash that changes with the recipe and with the list of sprites."""
    recipe = [str(seed), *(phase.model_dump_json() for phase in phases)]
    return hashlib.sha256("\n".join(recipe).encode() + LIST.read_bytes()).hexdigest()[:16]


def _load(path: Path, recipe_id: str) -> dict[str, Any] | None:
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if state.get("made_by") != recipe_id:
        raise RecipeMismatch(
            f"{path} was written with another recipe, seed or list of sprites. Remove {path.parent} to start again"
        )
    return state


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description="Train a small network, or resume its training.")
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--out", type=Path, help="folder of the run (default: out/weights/NETWORK)")
    parser.add_argument("--config", type=Path, help="recipe (default: miniature/training/NETWORK.toml)")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="training.KEY=VALUE")
    parser.add_argument("--workers", type=int, default=0, help="processes that compose scenes (default: none)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch; affects the weights (default: 1)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="device of the network (default: cpu)")
    options = parser.parse_args()
    if options.device == "cuda" and options.network not in CUDA_NETWORKS:
        parser.error(f"--device cuda: {options.network} trains on the CPU; on a GPU train {sorted(CUDA_NETWORKS)}")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(options.threads)
    module = import_module(f"miniature.training.{options.network}")
    config = options.config or Path(__file__).parent / f"{options.network}.toml"
    start = time.monotonic()
    out = options.out or Path("out/weights") / options.network
    with exit_on_bad_input(parser, RecipeMismatch):
        recipe = load(module.Settings, config, options.overrides).training
        figures = train(module.Training(recipe), recipe.seed, out, options.workers, device=options.device)
    log.info("done in %.0f s: %s", time.monotonic() - start, figures)


if __name__ == "__main__":
    main()
