"""The loop: killed or not, its weights are the same; what is no number is left out; nothing waits for the device."""

import json
import random
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from infra.precision import Precision
from model.config import DropConfig
from model.subject_diffusion import SubjectDiffusion
from tests.device_bytes import DeviceBytes, weight_bytes
from tests.processes import wait_until
from tests.small_model import open_gates, small_batch, small_config
from tests.training_run import FULL, ROWS, MadeUpPlan, read, trained
from training.blank import blank_batch
from training.checkpoints.store import Checkpoints, read_tensors
from training.config import TrainingJob
from training.data.loader import LoadedBatch, SkippedRow
from training.data.plan import PlannedRow
from training.distributed.parallel import Replica, Worker
from training.errors import Diverged
from training.loop import batch_numbers, compile_for_each_number, loss_shares, prepare_network, train
from training.monitoring.metrics import FILE, read_metrics
from training.monitoring.probe import identity_probe
from training.optimization.optim import Optimizer
from training.optimization.state import Position, TrainingState
from training.optimization.step import MicroBatch, TrainingStep

GOLDEN = Path(__file__).parents[2] / "golden" / "training_losses.json"
Jobs = Callable[..., TrainingJob]


def tensors_at(job, step):
    """All tensors of a checkpoint, by kind and name."""
    net = SubjectDiffusion.from_base(job.model)
    weights = {name: weight for name, weight in net.named_parameters() if weight.requires_grad}
    zeros = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    found = {"weights": zeros, "ema": {name: zero.clone() for name, zero in zeros.items()}}
    found["optimizer"] = Optimizer(weights, job.training.optimizer, job.training.steps).tensors(weights)
    read_tensors(Path(job.training.out) / "checkpoints" / f"step-{step:08d}", found)
    return {f"{kind}/{name}": tensor for kind, named in found.items() for name, tensor in named.items()}


def differing(one, other):
    return [name for name in one if not torch.equal(one[name], other[name])]


# Interrupted is uninterrupted


def train_alone(job: TrainingJob) -> None:
    torch.set_num_threads(1)
    trained(job)


def test_killed_at_any_step_and_resumed_gives_the_same_bits(job: Jobs, tmp_path, processes):
    settings = {"steps": 8, "log_every": 1, "checkpoint_every": 3}
    undisturbed = job(**settings)
    trained(undisturbed)
    killed = job(**settings, out=str(tmp_path / "killed"))
    step = random.Random().randint(3, 7)
    running = processes.fork(train_alone, killed)
    wait_until(f"step {step}", lambda: reached(killed, step), running.process.is_alive)
    running.process.kill()
    assert running.exit_code() == -signal.SIGKILL
    trained(killed, resume=True)
    assert differing(tensors_at(undisturbed, 8), tensors_at(killed, 8)) == [], f"killed after step {step}"
    losses = [[line["loss"] for line in read_metrics(Path(one.training.out))] for one in (undisturbed, killed)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 8


def reached(job: TrainingJob, step: int) -> bool:
    return any(line["step"] >= step for line in read_metrics(Path(job.training.out)))


def test_a_job_that_goes_on_knows_more_than_its_weights(job: Jobs, tmp_path):
    """Without the moments or the mean the bits would differ: what the test above compares is worth comparing."""
    one = job(steps=2, checkpoint_every=1)
    trained(one)
    first, second = tensors_at(one, 1), tensors_at(one, 2)
    assert {name.split("/")[0] for name in differing(first, second)} == {"weights", "ema", "optimizer"}


def keys_of(job, position: Position, worker: Worker) -> list[bytes]:
    net = SubjectDiffusion.from_base(job.model)
    return [key for loaded in read(net, batch_numbers(position, job.training, worker)) for key in loaded.keys]


def test_another_number_of_workers_sees_the_same_rows(job: Jobs):
    """103 rows in 26 batches: 2 workers for 5 steps of 2 batches each, then 3 for 2 steps; each row once."""
    first, then = job(steps=5, accumulation=2), job(steps=7)
    seen = Counter(key for rank in range(2) for key in keys_of(first, Position(), Worker(rank, 2)))
    seen.update(key for rank in range(3) for key in keys_of(then, Position(5, 20), Worker(rank, 3)))
    assert len(seen) == ROWS
    assert set(seen.values()) == {1}


def test_the_gradient_is_the_mean_over_images(job: Jobs):
    """The epoch's last batch has 3 rows, the next 4: what they are multiplied by makes up for it."""
    assert loss_shares(MadeUpPlan(), range(25, 27), workers=1) == {25: pytest.approx(3 / 7), 26: pytest.approx(4 / 7)}
    assert loss_shares(MadeUpPlan(), range(25, 27), workers=2) == {25: pytest.approx(6 / 7), 26: pytest.approx(8 / 7)}


# What is no number


def test_a_step_whose_gradients_are_no_numbers_is_left_out_and_counted(job: Jobs):
    one = job(steps=5, log_every=5, checkpoint_every=1, keep=9)
    trained(one, spoilt=[3])
    kinds = ("weights", "optimizer")
    before, left_out, after = (tensors_at(one, step) for step in (3, 4, 5))
    assert [name for name in differing(before, left_out) if name.startswith(kinds)] == []
    assert differing(left_out, after)
    assert all(tensor.isfinite().all() for tensor in after.values())
    (line,) = read_metrics(Path(one.training.out))
    assert line["steps_left_out"] == 1
    assert line["loss"] < 2, "the mean is over the other steps"


def test_each_line_of_metrics_is_of_the_steps_since_the_line_before(job: Jobs):
    """Also of the first line of a job that goes on from the middle of one."""
    settings = {"log_every": 5, "checkpoint_every": 7}
    trained(job(steps=7, **settings), spoilt=[1, 8])
    trained(job(steps=15, **settings), resume=True, spoilt=[1, 8])
    lines = read_metrics(Path(job().training.out))
    assert [(line["step"], line["steps_left_out"]) for line in lines] == [(5, 1), (7, 0), (10, 1), (15, 0)]
    assert [line["images_per_s"] * line["seconds_per_step"] for line in lines] == [pytest.approx(FULL)] * 4


def test_too_many_in_a_row_stop_the_job_and_their_batch_is_kept(job: Jobs):
    one = job(steps=20, log_every=1, checkpoint_every=2, non_finite_limit=3)
    with pytest.raises(Diverged, match=r"last 3 steps up to step 7"):
        trained(one, spoilt=[2, *range(4, 20)])
    out = Path(one.training.out)
    (kept,) = (out / "non-finite").iterdir()
    (micro,) = torch.load(kept, weights_only=False)
    assert micro["number"] == 6
    assert micro["batch"].boxes.isnan().all()
    latest = Checkpoints(out, 3, Worker()).latest()
    assert latest.name == "step-00000006"
    assert read_metrics(out)[-1]["loss"] is None
    assert "NaN" not in (out / FILE).read_text(), "readers of JSON know no such number"


# Identity


def test_the_probe_is_0_where_all_images_show_the_same_subject(job: Jobs):
    one = job()
    net = SubjectDiffusion.from_base(one.model)
    replica = Replica(net, one.training.strategy, Worker())
    batch = small_batch(net.prompts, ["dog"], ["dog"])
    same = replace(batch, subject_images=batch.subject_images[:1].expand(2, -1, -1, -1, -1))
    assert identity_probe(replica, batch, seed=0) != 0
    assert identity_probe(replica, same, seed=0) == 0
    assert all(weight.grad is None for weight in net.parameters())


def test_the_probe_encodes_pictures_once(job: Jobs):
    one = job()
    net = SubjectDiffusion.from_base(one.model)
    calls: Counter[str] = Counter()
    net.image_encoder.register_forward_hook(lambda *_: calls.update(["image encoder"]))
    net.vae.encoder.register_forward_hook(lambda *_: calls.update(["VAE"]))
    identity_probe(Replica(net, one.training.strategy, Worker()), small_batch(net.prompts, ["dog"], ["cat"]), seed=0)
    assert calls == {"image encoder": 1, "VAE": 1}


def test_the_probe_is_among_the_metrics_and_changes_no_weights(job: Jobs):
    plain, probed = job(steps=2, checkpoint_every=2), job(steps=2, checkpoint_every=2, identity_probe=True)
    probed = probed.model_copy(
        update={"training": probed.training.model_copy(update={"out": plain.training.out + "-probed"})}
    )
    trained(plain)
    trained(probed)
    assert differing(tensors_at(plain, 2), tensors_at(probed, 2)) == []
    (line,) = read_metrics(Path(probed.training.out))
    assert isinstance(line["identity_probe"], float)


# Poisoned rows


def run_with(one, change):
    torch.manual_seed(1)
    net = SubjectDiffusion.from_base(one.model)
    train(net, one, MadeUpPlan(), lambda numbers: map(change, read(net, numbers)), Worker())
    return read_metrics(Path(one.training.out))


def without_rows(loaded: LoadedBatch) -> LoadedBatch:
    gone = tuple(SkippedRow(PlannedRow("s", 0, 0), key, "image", "cut short") for key in loaded.keys)
    return LoadedBatch(None, loaded.number, (), gone) if loaded.number == 1 else loaded


def test_a_batch_without_a_good_row_costs_its_rows_and_a_count(job: Jobs):
    (line,) = run_with(job(steps=3, log_every=3), without_rows)
    assert line["skipped_rows"] == FULL
    assert line["steps_left_out"] == 0
    (untouched,) = run_with(job(steps=3, log_every=3, out=job().training.out + "-2"), lambda loaded: loaded)
    assert untouched["skipped_rows"] == 0


def test_what_stands_in_for_an_empty_batch_moves_nothing(job: Jobs):
    one = job()
    net = SubjectDiffusion.from_base(one.model)
    state = TrainingState(Replica(net, one.training.strategy, Worker()), one.training)
    before = {name: weight.clone() for name, weight in state.replica.weights.items()}
    TrainingStep(state, one.training)(0, [MicroBatch(0, blank_batch(net, one.training.data, 2), 0, 0.0, whole=False)])
    assert [name for name, weight in state.replica.weights.items() if not torch.equal(weight, before[name])] == []


# Speed


class Waits(TorchDispatchMode):
    """Counts what makes the host wait for a device: reading a number of a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return func(*args, **(kwargs or {}))


def test_between_two_lines_of_metrics_the_host_waits_for_nothing(job: Jobs):
    one = job(accumulation=2)
    net = SubjectDiffusion.from_base(one.model)
    state = TrainingState(
        Replica(prepare_network(net, one.training, Worker()), one.training.strategy, Worker()), one.training
    )
    step = TrainingStep(state, one.training)
    with Waits() as waits:
        for number, labels in enumerate((["dog"], ["dog", "cat"])):
            batch = replace(small_batch(net.prompts, labels), full=True)
            step(number, [MicroBatch(number, batch, 1, 0.5, whole=True)] * 2)
        assert waits.count == 0
        step.monitor.take_sums(0).tolist()
        float(step.monitor.non_finite_steps)
    assert waits.count > 0, "the count knows a wait when it sees one"


def compile_and_train(folder: Path) -> int:
    """Graphs that three steps with two numbers of subjects take, and then one with a smaller batch."""
    from torch._dynamo.testing import CompileCounterWithBackend

    from tests.training_run import small_job

    one = small_job(folder)
    net = open_gates(SubjectDiffusion.from_base(one.model))
    state = TrainingState(
        Replica(prepare_network(net, one.training, Worker()), one.training.strategy, Worker()), one.training
    )
    graphs = CompileCounterWithBackend("aot_eager")
    net.unet.compile(backend=graphs, fullgraph=True, dynamic=False)
    step = TrainingStep(state, one.training)
    for number, images in enumerate([[["dog"]] * 2, [["dog", "cat"]] * 2, [["bird"]] * 2, [["dog"]]]):
        batch = replace(small_batch(net.prompts, *images), full=True)
        step(number, [MicroBatch(number, batch, len(images), 1.0, whole=len(images) == 2)])
    assert not step.monitor.non_finite_steps
    return graphs.frame_count


@pytest.mark.slow
def test_one_graph_for_each_number_of_subjects_and_no_break(base_folder):
    """In a process of its own: the compiler cannot follow the check of axes that tests put around `model`."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        assert process.submit(compile_and_train, base_folder).result() == 2


def test_there_is_a_graph_for_each_of_many_subjects(monkeypatch: pytest.MonkeyPatch):
    """A layer stands in for the UNet, which takes minutes to compile that often; torch's own limit is eight graphs."""
    from torch._dynamo.testing import CompileCounter

    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 8)
    layer, graphs = torch.nn.Linear(2, 2), CompileCounter()
    compile_for_each_number(layer, 12, backend=graphs)
    for subjects in range(1, 13):
        layer(torch.ones(subjects, 2))
    assert graphs.frame_count == 12


def test_frozen_weights_are_cast_before_they_are_moved(job: Jobs):
    """The device never holds a frozen weight in float32. The meta device stands in for it."""
    one = job(precision="bfloat16")
    net = SubjectDiffusion.from_base(one.model.model_copy(update={"frozen_precision": Precision.BFLOAT16}))
    in_float32 = weight_bytes(net)
    with DeviceBytes("meta") as allocated:
        prepare_network(net, one.training, Worker(device=torch.device("meta")))
    assert allocated.bytes == weight_bytes(net) < in_float32


# Golden


def test_the_first_20_losses_are_those_on_record(job: Jobs, base_folder):
    """A refactor leaves them as they are; a change of results shows the new ones."""
    four_levels = small_config(base_folder, frozen_precision="float32")
    one = job(steps=20, log_every=1, checkpoint_every=20).model_copy(update={"model": four_levels})
    assert one.model.drop == DropConfig()
    trained(one)
    losses = [[line["denoising"], line["L_attn"]] for line in read_metrics(Path(one.training.out))]
    recorded = json.loads(GOLDEN.read_text())
    assert len(losses) == 20
    torch.testing.assert_close(torch.tensor(losses), torch.tensor(recorded), rtol=2e-3, atol=1e-4)
