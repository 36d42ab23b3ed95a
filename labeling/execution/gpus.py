"""How much of a GPU each worker of a stage reserves on a Ray cluster.

Ray hides the cards that a worker did not reserve. A worker that reserves none sees all of its node's cards, or none at
all, so by default the workers of a stage that runs on a GPU share the cluster's cards evenly.
"""

from collections.abc import Sequence
from math import ceil

from labeling.config import Device, Workers
from labeling.errors import DeviceError


def gpu_share(stage: str, device: Device | None, workers: Workers, count: int, cards: Sequence[int]) -> float:
    """GPUs to reserve for each of the `count` workers of `stage`.

    Args:
        device: where the stage's network may run; None where it has no network.
        cards: number of GPUs of each node of the cluster.

    Raises:
        DeviceError: the settings ask for GPUs that no node has, or that the stage would not use.
    """
    asked, setting = workers.gpus, f"labeling.workers.{stage}.gpus"
    if device not in (Device.AUTO, Device.CUDA):
        if asked:
            runs_on = "has no network" if device is None else f"runs on device={device.value}"
            raise DeviceError(f"{setting}={asked:g} reserves GPUs, but {stage} {runs_on}: set {setting}=0")
        return 0.0
    if not any(cards) and (asked or device is Device.CUDA):
        wanted = f"{setting}={asked:g}" if asked else f"device=cuda of {stage}"
        raise DeviceError(
            f"{wanted} needs a GPU, and no node of the Ray cluster has one: start a node with `ray start --num-gpus`, "
            f"or set {setting}=0 and the stage's device to cpu"
        )
    if asked is not None and asked > max(cards, default=0):
        raise DeviceError(
            f"{setting}={asked:g} is more than any node of the Ray cluster has ({max(cards)}): no worker could start. "
            f"Set at most {setting}={max(cards)}"
        )
    if asked is None:
        return 1 / ceil(count / sum(cards)) if any(cards) else 0.0
    return asked
