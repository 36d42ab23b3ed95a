"""What a job writes down of itself, and how fast it says it is."""

import json
from collections.abc import Callable

import pytest
import torch

from training.data.config import CacheConfig
from training.errors import TrainingError
from training.monitoring.metrics import FILE, MetricsLog, format_duration, format_rate, progress_line, read_metrics
from training.monitoring.throughput import Stopwatch, flops_per_image, peak_tflops

VALUES = {"step": 10, "loss": 0.5, "L_attn": 1.0, "attention_in_mask": 0.25, "images_per_s": 3.0, "mfu": None}
VALUES |= {"stall": 0.01, "seconds_per_step": 2.0, "gates": {"mid": 0.125}}


def test_a_job_that_goes_on_drops_what_came_after_its_checkpoint(tmp_path):
    first = MetricsLog(tmp_path, done=0)
    for step in (10, 20, 30):
        first.write(VALUES | {"step": step})
    first.close()
    second = MetricsLog(tmp_path, done=20)
    second.write(VALUES | {"step": 30, "loss": 0.1})
    second.close()
    assert [(line["step"], line["loss"]) for line in read_metrics(tmp_path)] == [(10, 0.5), (20, 0.5), (30, 0.1)]


def test_a_line_that_a_killed_job_left_unfinished_is_dropped(tmp_path):
    (tmp_path / FILE).write_text(json.dumps(VALUES) + '\n{"step": 20, "lo')
    assert read_metrics(tmp_path) == [VALUES]
    MetricsLog(tmp_path, done=10).close()
    assert (tmp_path / FILE).read_text() == json.dumps(VALUES) + "\n"


@pytest.mark.parametrize(
    "damage", [b"\0" * 50, b"[]", b"null", b'{"loss": 1.0}', b'{"step": "x"}', b"\xff", b"[" * 10**5]
)
def test_a_damaged_line_does_not_end_the_job(tmp_path, caplog, damage):
    lines = [json.dumps(VALUES | {"step": step}).encode() for step in (1, 3)]
    (tmp_path / FILE).write_bytes(b"\n".join([lines[0], damage, lines[1], b""]))
    MetricsLog(tmp_path, done=3).close()
    assert (tmp_path / FILE).read_bytes() == b"\n".join([*lines, b""])
    assert caplog.messages == [f"{tmp_path / FILE}: 1 damaged lines are left out, first line 2"]


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    log = MetricsLog(tmp_path, done=0)
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()
    with pytest.raises(TrainingError, match=f"cannot write {tmp_path / FILE}.*--resume latest"):
        log.write(VALUES)
    log.close()


def test_the_numbers_are_in_tensorboards_files_too(tmp_path):
    log = MetricsLog(tmp_path, done=0)
    log.write(VALUES)
    log.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert all(name in events.read_bytes() for name in (b"loss", b"gates/mid"))


def test_the_line_for_people():
    said = progress_line(VALUES, steps=100)
    assert "step 10 of 100" in said
    assert "3 min 0 s left" in said
    assert "MFU" not in said
    assert "MFU 33.0%" in progress_line(VALUES | {"mfu": 0.33}, steps=100)
    assert "loss none" in progress_line(VALUES | {"loss": None}, steps=100)


def test_a_slow_job_sees_its_rate():
    assert "0.0123 images/s" in progress_line(VALUES | {"images_per_s": 0.01234}, steps=100)
    assert [format_rate(rate) for rate in (0.0, 0.05, 3.14159, 12.34, 1234.5)] == [
        "0",
        "0.05",
        "3.14",
        "12.3",
        "1234.5",
    ]


@pytest.mark.parametrize(
    ("seconds", "words"), [(4, "4 s"), (59.9, "1 min 0 s"), (3600, "1 h 0 min"), (200_000, "2 d 7 h")]
)
def test_durations_have_two_units(seconds, words):
    assert format_duration(seconds) == words


def test_speed_is_of_what_was_counted_since_it_was_asked(job: Callable):
    watch = Stopwatch(job().model, job().training.data, torch.device("cpu"))
    watch.count_batch(4, subjects=1)
    watch.count_batch(3, subjects=2)
    first = watch.speed(workers=2)
    assert first.images_per_s * first.seconds == pytest.approx(14)
    assert first.mfu is None
    assert watch.speed(workers=2).images_per_s == 0


def test_waiting_is_a_share_of_the_time(job: Callable):
    watch = Stopwatch(job().model, job().training.data, torch.device("cpu"))
    with watch.measure_wait():
        sum(range(100_000))
    sum(range(100_000))
    assert 0 < watch.speed(workers=1).stall < 1


def test_two_subjects_take_more_work_than_one(job: Callable):
    model, data = job().model, job().training.data
    assert flops_per_image(model, data, 2) > flops_per_image(model, data, 1) > 0
    cached = [None, CacheConfig(), CacheConfig(features=True)]
    online, latents, both = (flops_per_image(model, data.model_copy(update={"cache": one}), 1) for one in cached)
    assert online > latents > both > 0


def test_images_of_twice_the_side_take_the_vae_at_least_four_times_the_work(job: Callable):
    model, data = job().model, job().training.data
    larger = data.model_copy(update={"image_px": 2 * data.image_px})
    latents = CacheConfig()
    vae, larger_vae = (
        flops_per_image(model, one, 1) - flops_per_image(model, one.model_copy(update={"cache": latents}), 1)
        for one in (data, larger)
    )
    assert 4 <= larger_vae / vae <= 16  # of convolutions, and of attention


@pytest.mark.parametrize(
    ("name", "peak"), [("NVIDIA L4", 121), ("NVIDIA L40", 181), ("NVIDIA L40S", 362), ("T4", None)]
)
def test_a_peak_is_of_the_gpu_itself(monkeypatch, name, peak):
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: f"NVIDIA {name}")
    assert peak_tflops(torch.device("cuda")) == peak
    assert peak_tflops(torch.device("cpu")) is None
