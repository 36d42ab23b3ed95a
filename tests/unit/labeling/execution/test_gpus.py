"""GPUs that a worker of a stage reserves on a Ray cluster."""

from fractions import Fraction

import pytest

from labeling.config import Device, Workers
from labeling.errors import DeviceError
from labeling.execution.gpus import gpu_share


def share(*, gpus: float | None = None, count: int = 1, cards: tuple[int, ...], device: Device | None = Device.AUTO):
    return gpu_share("captions", device, Workers(gpus=gpus, count=count), count, cards)


@pytest.mark.parametrize(
    ("count", "cards", "expected"),
    [
        (1, (8,), 1.0),
        (8, (8,), 1.0),
        (4, (2, 2), 1.0),
        (3, (2,), 0.5),
        (5, (2,), 1 / 3),
        (16, (0, 8), 0.5),
        (4, (), 0.0),
        (4, (0, 0), 0.0),
    ],
)
def test_by_default_the_workers_share_the_cards_evenly(count: int, cards: tuple[int, ...], expected: float) -> None:
    assert share(count=count, cards=cards) == expected


@pytest.mark.parametrize("cards", [(1,), (2, 1), (8,), (3, 5)])
@pytest.mark.parametrize("count", range(1, 30))
def test_all_workers_fit_on_the_cards_at_once(count: int, cards: tuple[int, ...]) -> None:
    workers_per_card = int(1 / Fraction(share(count=count, cards=cards)).limit_denominator(1000))
    assert sum(cards) * workers_per_card >= count


@pytest.mark.parametrize("device", [None, Device.CPU, Device.MPS])
def test_a_stage_that_runs_on_no_gpu_reserves_none(device: Device | None) -> None:
    assert share(device=device, cards=(8,)) == 0.0
    assert share(device=device, cards=(8,), gpus=0.0) == 0.0


@pytest.mark.parametrize("device", [Device.AUTO, Device.CUDA])
def test_a_setting_is_used_as_it_is(device: Device) -> None:
    assert [share(gpus=gpus, cards=(2,), device=device) for gpus in (0.0, 0.25, 2.0)] == [0.0, 0.25, 2.0]


@pytest.mark.parametrize(
    ("gpus", "cards", "device", "message"),
    [
        (0.5, (0, 0), Device.AUTO, r"^labeling\.workers\.captions\.gpus=0\.5 needs a GPU, and no node of the Ray"),
        (None, (0,), Device.CUDA, r"^device=cuda of captions needs a GPU, and no node of the Ray cluster has one"),
        (0.0, (), Device.CUDA, r"^device=cuda of captions needs a GPU"),
        (2.0, (1, 1), Device.AUTO, r"gpus=2 is more than any node of the Ray cluster has \(1\): no worker could start"),
        (
            1.0,
            (1,),
            Device.CPU,
            r"reserves GPUs, but captions runs on device=cpu: set labeling\.workers\.captions\.gpus=0",
        ),
        (1.0, (1,), None, r"reserves GPUs, but captions has no network"),
    ],
)
def test_a_mismatch_is_refused(gpus: float | None, cards: tuple[int, ...], device: Device | None, message: str) -> None:
    with pytest.raises(DeviceError, match=message):
        share(gpus=gpus, cards=cards, device=device)
