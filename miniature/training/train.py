"""Trains a small network of the miniature world: one loop for all of them.

    python -m miniature.train sam --out out/weights/sam

A network's recipe (`miniature/training/sam.toml` and its neighbours) is a list of phases; `miniature.training` has the
data and the loss of each. The batch of a step depends on the recipe's seed, the phase and the step alone, so a run
that was stopped goes on from its last checkpoint as if it had not been, and the same seed gives the same weights
on one machine. Schedules count steps, never seconds.

    OUT/checkpoint.pt     the last one: weights, optimisers, random state, phase and step
    OUT/metrics.jsonl     what was logged and validated, with the processor's seconds
    OUT/weights/          the network in its library's folder layout, half precision, after the last phase
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
from typing import Any, Protocol

import cv2
import psutil
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from infra.config import Config, load
from infra.ranges import Count, Factor, Rate, RateOrZero, Share, Steps
from miniature.refusal import refusing
from miniature.training.muon import Muon
from miniature.world.sprites import LIST

log = logging.getLogger("miniature.training.train")
NETWORKS = ("sam", "grounding_dino", "blip2", "latent", "image_encoder", "base", "judge", "embedder")


class AnotherRecipe(Exception):
    """A checkpoint cannot be gone on from; the message says what to do."""


class Phase(Config):
    """One stretch of training: its length and its optimisers."""

    steps: Steps
    batch_size: Count = 16
    learning_rate: Rate
    muon_rate: RateOrZero = 0.0
    """Matrices of linear layers are trained by Muon at this rate; 0: everything by AdamW."""
    muon_convolutions: tuple[str, ...] = ()
    """Muon also takes the kernels of convolutions whose names begin so."""
    rates: dict[str, Factor] = Field(default={})
    """Factors of the rate for parameters whose names begin so; 0 freezes them."""
    warmup_steps: Steps = 100
    last_share: Share = 0.03
    """The rate falls as a half cosine to this share of itself."""
    weight_decay: RateOrZero = 0.01
    clip_norm: float = Field(default=1.0, gt=0, le=1000)


class Data(Protocol):
    """Makes batches; crosses to worker processes, so it holds no network."""

    def __call__(self, seed: Sequence[int], size: int) -> Any:
        """`size` examples, the same for the same seed; tensors, or dictionaries and lists of them."""


class Task(Protocol):
    """What one phase trains, and how."""

    @property
    def name(self) -> str:
        """What logs call the phase."""

    @property
    def net(self) -> nn.Module:
        """The network, which all phases share."""

    @property
    def heads(self) -> nn.Module:
        """Helpers that the phase trains along and nobody keeps."""

    @property
    def data(self) -> Data:
        """What it is trained on."""

    def loss(self, batch: Any) -> dict[str, Tensor]:
        """The weighted terms of the loss; their sum is minimised."""

    def validate(self) -> dict[str, float]:
        """Figures on scenes that are never trained on."""

    def finish(self) -> None:
        """Bring into `net` what the phase trained outside of it."""


class Recipe(Protocol):
    """A network on its way."""

    def tasks(self) -> list[tuple[Phase, Task]]:
        """The phases in order; all train the same `net`."""

    def save(self, folder: Path) -> None:
        """Write the network in half precision, with its processor, as its library lays it out."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often something is done, in steps. Changes no weight."""

    log: int = 50
    validate: int = 250
    checkpoint: int = 100


def train(recipe: Recipe, seed: int, out: Path, workers: int = 0, pace: Pace = Pace()) -> dict[str, float]:
    """Run what is left of the recipe, from the checkpoint in `out` if there is one; the last validation.

    Raises:
        AnotherRecipe: the checkpoint is of other phases, another seed or other sprites.
    """
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    tasks = recipe.tasks()
    made_by = _made_by(seed, [phase for phase, _ in tasks])
    saved = _load(out / "checkpoint.pt", made_by)
    first = saved["phase"] if saved else 0
    if saved:
        tasks[0][1].net.load_state_dict(saved["net"])
    figures: dict[str, float] = {}
    for index, (phase, task) in enumerate(tasks[first:], start=first):
        run = _Run(phase, task, (seed, index), out, made_by)
        if saved and index == first:
            run.restore(saved)
        figures = run.go(workers, pace)
    recipe.save(out / "weights")
    return figures


class _Run:
    """One phase, from wherever it is to its end."""

    def __init__(self, phase: Phase, task: Task, seed: tuple[int, int], out: Path, made_by: str) -> None:
        self.phase, self.task, self.seed, self.out, self.made_by = phase, task, seed, out, made_by
        self.optimisers = optimisers(task, phase)
        self.step = 0
        self.cpu_s = 0.0
        self._cpu_start = cpu_s()

    def go(self, workers: int, pace: Pace) -> dict[str, float]:
        """Train to the end of the phase; the figures at its end."""
        mean = _Mean()
        for batch in self._batches(workers):
            mean.add(self._update(batch))
            self.step += 1
            if self.step % pace.log == 0:
                self._report("train", mean.take())
            if self.step % pace.validate == 0 and self.step < self.phase.steps:
                self._report("validate", self._validate())
            if self.step % pace.checkpoint == 0 or self.step == self.phase.steps:
                self._save()
        self.task.finish()
        self._save()
        figures = self._validate()
        self._report("validate", figures)
        return figures

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from a checkpoint of this phase."""
        self.task.heads.load_state_dict(saved["heads"])
        for optimiser, state in zip(self.optimisers, saved["optimisers"], strict=True):
            optimiser.load_state_dict(state)
        torch.set_rng_state(saved["random"])
        self.step, self.cpu_s = saved["step"], saved["cpu_s"]
        log.info("%s goes on at step %d of %d", self.task.name, self.step, self.phase.steps)

    def _batches(self, workers: int) -> Iterator[Any]:
        steps, left = _Steps(self.task.data, self.seed, self.phase), range(self.step, self.phase.steps)
        cv2.setNumThreads(1)  # here, since a worker hangs that inherits a pool of threads and ends it
        own = torch.Generator()  # else each loader would draw from the random state that checkpoints hold
        return iter(DataLoader(steps, batch_size=None, sampler=left, num_workers=workers, generator=own))

    def _update(self, batch: Any) -> dict[str, float]:
        for module in (self.task.net, self.task.heads):
            module.train()
        share = rate_at(self.step, self.phase)
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
            for group in optimiser.param_groups:
                group["lr"] = group["full_rate"] * share
        terms = self.task.loss(batch)
        total = torch.stack(list(terms.values())).sum()
        total.backward()  # type: ignore[no-untyped-call]
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
        shown = "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
        log.info("%s %d/%d  %s  %.0f CPU s  %s", self.task.name, self.step, self.phase.steps, kind, seconds, shown)

    def _save(self) -> None:
        path = self.out / "checkpoint.pt"
        state = {
            "made_by": self.made_by,
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


class _Steps(Dataset[Any]):
    """The batch of each step."""

    def __init__(self, data: Data, seed: tuple[int, int], phase: Phase) -> None:
        self.data, self.seed, self.size = data, seed, phase.batch_size

    def __getitem__(self, step: int) -> Any:
        return self.data((*self.seed, step), self.size)


class _Mean:
    """Running means since they were last taken."""

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
    """The share of the learning rate at a step: up in a line, down as a half cosine."""
    fall = 0.5 * (1 + math.cos(math.pi * min(1.0, step / phase.steps)))
    return min(1.0, (step + 1) / phase.warmup_steps) * (phase.last_share + (1 - phase.last_share) * fall)


def optimisers(task: Task, phase: Phase) -> list[Optimizer]:
    """AdamW for all that is trained but what Muon takes; matrices alone decay.

    Parameters at rate 0 are frozen, those at another rate are thawed.
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
    made: list[Optimizer] = [torch.optim.AdamW(adam, lr=phase.learning_rate, betas=(0.9, 0.98))]
    if muon:
        made.append(Muon(muon, lr=phase.muon_rate, weight_decay=phase.weight_decay))
    return made


def _matrices(net: nn.Module, convolutions: tuple[str, ...]) -> set[Tensor]:
    """Weights of linear layers that are no embedding's as well, and of the convolutions that are named."""
    embeddings = {id(m.weight) for m in net.modules() if isinstance(m, nn.Embedding)}
    linear = {m.weight for m in net.modules() if isinstance(m, nn.Linear) and id(m.weight) not in embeddings}
    named = {m.weight for n, m in net.named_modules() if isinstance(m, nn.Conv2d) and n.startswith(convolutions)}
    return linear | named


def cpu_s() -> float:
    """CPU seconds of this process and its workers, ended or not."""
    times = os.times()
    total = times.user + times.system + times.children_user + times.children_system
    for worker in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):
            total += sum(worker.cpu_times()[:2])
    return total


def _made_by(seed: int, phases: Sequence[Phase]) -> str:
    """Changes with the recipe and with the sprites that scenes are made of."""
    recipe = [str(seed), *(phase.model_dump_json() for phase in phases)]
    return hashlib.sha256("\n".join(recipe).encode() + LIST.read_bytes()).hexdigest()[:16]


def _load(path: Path, made_by: str) -> dict[str, Any] | None:
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, weights_only=True)
    if state.get("made_by") != made_by:
        raise AnotherRecipe(f"{path} is of another recipe, seed or list of sprites: remove {path.parent} to begin anew")
    return state


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Train a small network, or go on where that was stopped.")
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--out", type=Path, help="folder of the run (default: out/weights/NETWORK)")
    parser.add_argument("--config", type=Path, help="recipe (default: miniature/training/NETWORK.toml)")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="training.KEY=VALUE")
    parser.add_argument("--workers", type=int, default=0, help="processes that compose scenes (default: none)")
    parser.add_argument("--threads", type=int, default=1, help="of torch; part of what makes runs equal (default: 1)")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    torch.set_num_threads(given.threads)
    module = import_module(f"miniature.training.{given.network}")
    config = given.config or Path(__file__).parent / f"{given.network}.toml"
    start = time.monotonic()
    out = given.out or Path("out/weights") / given.network
    with refusing(parser, AnotherRecipe):
        recipe = load(module.Settings, config, given.overrides).training
        figures = train(module.Training(recipe), recipe.seed, out, given.workers)
    log.info("done in %.0f s: %s", time.monotonic() - start, figures)


if __name__ == "__main__":
    main()
