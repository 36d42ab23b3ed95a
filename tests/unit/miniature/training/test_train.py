"""The loop: what it does is the seed's doing, however often it is stopped."""

import json
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from subprocess import PIPE
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from miniature.training import train as loop
from miniature.training.muon import Muon, orthogonal
from miniature.training.train import Intervals, Phase, Task, rate_at, train

PACE = Intervals(log=2, validate=4, checkpoint=2)
PHASE = Phase(steps=6, batch_size=8, learning_rate=0.05, muon_rate=0.02, warmup_steps=2)


class Points:
    """Inputs and what a fixed matrix makes of them."""

    def __call__(self, seed: Sequence[int], size: int) -> tuple[Tensor, Tensor]:
        inputs = torch.randn(size, 4, generator=torch.Generator().manual_seed(hash(tuple(seed))))
        return inputs, inputs @ torch.arange(8.0).view(4, 2) / 8


class Warped(Points):
    """The same, after a picture was warped by as many threads as OpenCV likes."""

    def __call__(self, seed: Sequence[int], size: int) -> tuple[Tensor, Tensor]:
        cv2.GaussianBlur(np.zeros((2048, 2048), np.float32), (9, 9), 0)
        return super().__call__(seed, size)


class Stopped(Exception):
    pass


class Fit:
    """A network and a helping head, with some noise of the loop's own random state."""

    def __init__(self, name: str, net: nn.Module, stop_at: int | None = None) -> None:
        self.name, self.net, self.heads, self.data = name, net, nn.Linear(2, 2), Points()
        self.stop_at, self.calls, self.finished = stop_at, 0, 0

    def loss(self, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        if self.calls == self.stop_at:
            raise Stopped
        self.calls += 1
        inputs, outputs = batch
        noise = 0.01 * torch.randn(len(inputs), 2)
        return {"fit": (self.heads(self.net(inputs)) + noise - outputs).square().mean()}

    def validate(self) -> dict[str, float]:
        inputs, outputs = self.data((99,), 64)
        return {"error": float((self.heads(self.net(inputs)) - outputs).square().mean())}

    def finish(self) -> None:
        self.finished += 1


class Two:
    """Two phases; the second leaves the first layer alone."""

    def __init__(self, stop_at: tuple[int | None, int | None] = (None, None), phase: Phase = PHASE) -> None:
        self.net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
        self.fits = [Fit("first", self.net, stop_at[0]), Fit("second", self.net, stop_at[1])]
        self.phases = [phase, phase.model_copy(update={"rates": {"0.": 0.0}})]

    def tasks(self) -> list[tuple[Phase, Task]]:
        return [*zip(self.phases, self.fits, strict=True)]

    def save(self, folder: Path) -> None:
        folder.mkdir()
        torch.save(self.net.state_dict(), folder / "net.pt")


@pytest.fixture(autouse=True)
def one_start() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        yield


def trained(out: Path, seed: int = 3, **made: Any) -> dict[str, Tensor]:
    torch.manual_seed(1)
    train(Two(**made), seed, out, intervals=PACE)
    weights: dict[str, Tensor] = torch.load(out / "weights" / "net.pt")
    return weights


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_seed_decides_the_weights(tmp_path: Path) -> None:
    one, same, other = (trained(tmp_path / str(i), seed=seed) for i, seed in enumerate((3, 3, 4)))
    assert equal(one, same)
    assert not equal(one, other)


@pytest.mark.parametrize("stop_at", [(3, None), (5, None), (None, 0), (None, 1), (None, 5)])
def test_a_stopped_run_goes_on_as_if_it_had_not_been(tmp_path: Path, stop_at: tuple[int | None, int | None]) -> None:
    whole = trained(tmp_path / "whole")
    with pytest.raises(Stopped):
        trained(tmp_path / "stopped", stop_at=stop_at)
    assert not (tmp_path / "stopped" / "weights").exists()
    assert equal(trained(tmp_path / "stopped"), whole)


def test_processes_compose_after_this_one_has(tmp_path: Path) -> None:
    """As it does when it validates, which leaves them a pool of threads that they do not have."""
    two, threads = Two(), cv2.getNumThreads()
    for fit in two.fits:
        fit.data = Warped()
    before = signal.signal(signal.SIGALRM, _took_too_long)
    signal.alarm(60)
    try:
        cv2.setNumThreads(2)
        two.fits[0].data((1,), 2)
        assert train(two, 3, tmp_path, workers=1, intervals=PACE)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        cv2.setNumThreads(threads)


def _took_too_long(*_: object) -> None:
    raise TimeoutError


def test_another_recipes_checkpoint_is_not_gone_on_from(tmp_path: Path) -> None:
    trained(tmp_path)
    for other in ({"seed": 4}, {"phase": PHASE.model_copy(update={"steps": 8})}):
        with pytest.raises(loop.RecipeMismatch, match="another recipe, seed or list"):
            trained(tmp_path, **other)


def test_it_learns_and_says_so(tmp_path: Path) -> None:
    trained(tmp_path, phase=PHASE.model_copy(update={"steps": 150}))
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    errors = [line["error"] for line in lines if line["kind"] == "validate" and line["phase"] == "first"]
    assert errors[-1] < 0.2 * errors[0]
    logged = [line["step"] for line in lines if (line["phase"], line["kind"]) == ("second", "train")]
    assert logged == [*range(2, 151, 2)]


def test_rate_0_freezes_and_the_next_phase_thaws(tmp_path: Path) -> None:
    two = Two()
    before = two.net[0].weight.detach().clone()
    two.phases.reverse()
    two.fits[1].stop_at = 0
    with pytest.raises(Stopped):
        train(two, 3, tmp_path, intervals=PACE)
    assert torch.equal(two.net[0].weight, before)
    assert two.fits[0].finished == 1
    two.fits[1].stop_at = None
    train(two, 3, tmp_path, intervals=PACE)
    assert not torch.equal(two.net[0].weight, before)


def test_the_rate_climbs_in_a_line_and_falls_as_half_a_cosine() -> None:
    phase = Phase(steps=100, learning_rate=1.0, warmup_steps=10, last_share=0.1)
    assert rate_at(0, phase) == pytest.approx(0.1)
    assert rate_at(50, phase) == pytest.approx(0.55)
    assert rate_at(100, phase) == pytest.approx(0.1)


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(state: Any, path: Path) -> None:
        path.write_bytes(b"half")
        raise Stopped

    monkeypatch.setattr(loop.torch, "save", half)
    with pytest.raises(Stopped):
        train(Two(), 3, tmp_path, intervals=PACE)
    assert not (tmp_path / "checkpoint.pt").exists()


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (5, 5)])
def test_orthogonal_levels_the_singular_values_and_keeps_their_directions(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    values = torch.diagonal(u.T @ orthogonal(matrix) @ v.T)
    assert ((values > 0.6) & (values < 1.3)).all()
    assert not orthogonal(torch.zeros(shape)).any()


@pytest.mark.parametrize(("convolutions", "mine"), [((), {"1.weight"}), (("0.",), {"0.0.weight", "1.weight"})])
def test_muon_takes_matrices_and_the_convolutions_that_are_named(convolutions: tuple[str, ...], mine: set[str]) -> None:
    fit = Fit("fit", nn.Sequential(nn.Sequential(nn.Conv2d(2, 3, 3)), nn.Linear(3, 2), nn.Conv2d(2, 2, 1)))
    made = loop.optimisers(fit, PHASE.model_copy(update={"muon_convolutions": convolutions}))
    taken = {id(p) for o in made if isinstance(o, Muon) for group in o.param_groups for p in group["params"]}
    assert {name for name, p in fit.net.named_parameters() if id(p) in taken} == mine


def test_muon_moves_a_kernel_as_the_matrix_of_its_outputs() -> None:
    kernel, matrix = nn.Parameter(torch.zeros(3, 2, 3, 3)), nn.Parameter(torch.zeros(3, 18))
    kernel.grad = torch.randn(kernel.shape)
    matrix.grad = kernel.grad.flatten(1)
    Muon([{"params": [kernel, matrix]}], lr=0.1, weight_decay=0.0).step()
    assert torch.equal(kernel.flatten(1), matrix)
    assert kernel.abs().max() > 0


def test_cpu_seconds_are_also_those_of_workers_that_go_on(processes):
    busy = "import time\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ninput()"
    before = loop.cpu_s()
    worker = processes.start([sys.executable, "-c", busy], stdin=PIPE, stdout=PIPE)
    worker.stdout.readline()
    assert loop.cpu_s() - before >= 0.4  # clocks tick in hundredths
