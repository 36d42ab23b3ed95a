"""Share of a GPU that each worker of a stage reserves on a Ray cluster.

Ray hides the GPUs that a worker did not reserve. A worker that reserves none sees either all GPUs of its node or none,
so by default the workers of a stage that runs on GPUs share those of the cluster evenly.
"""

from collections.abc import Sequence
from math import ceil

from labeling.config import Device, Workers
from labeling.errors import DeviceError


def gpu_share(stage: str, device: Device | None, workers: Workers, count: int, gpus_per_node: Sequence[int]) -> float:
    """Return the GPUs to reserve for each of the `count` workers of `stage`.

    Args:
        device: device setting of the stage's network; None where it has no network.
        gpus_per_node: number of GPUs of each node of the cluster.

    Raises:
        DeviceError: the settings request GPUs that no node has, or that the stage would not use.
    """
    requested, setting = workers.gpus, f"labeling.workers.{stage}.gpus"
    if device not in (Device.AUTO, Device.CUDA):
        if requested:
            runs_on = "has no network" if device is None else f"runs on device={device.value}"
            raise DeviceError(f"{setting}={requested:g} reserves GPUs, but {stage} {runs_on}: set {setting}=0")
        return 0.0
    if not any(gpus_per_node) and (requested or device is Device.CUDA):
        wanted = f"{setting}={requested:g}" if requested else f"device=cuda of {stage}"
        raise DeviceError(
            f"{wanted} needs a GPU, and no node of the Ray cluster has one: start a node with `ray start --num-gpus`, "
            f"or set {setting}=0 and the stage's device to cpu"
        )
    if requested is not None and requested > max(gpus_per_node, default=0):
        raise DeviceError(
            f"{setting}={requested:g} is more than any node of the Ray cluster has ({max(gpus_per_node)}): no worker "
            f"could start. Set at most {setting}={max(gpus_per_node)}"
        )
    if requested is None:
        return 1 / ceil(count / sum(gpus_per_node)) if any(gpus_per_node) else 0.0
    return requested
