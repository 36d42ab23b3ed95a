"""The Ray cluster that a program runs on. Ray is imported only when the program joins a cluster."""

import logging
import os

log = logging.getLogger(__name__)


def join_cluster() -> None:
    """Join the running cluster (RAY_ADDRESS, or the one of this machine), or start one in this process.

    Workers on this machine get the import path of this process. The modules of a job that is submitted with a working
    directory are in that directory.
    """
    import ray

    if ray.is_initialized():
        return
    path = os.pathsep.join([os.getcwd(), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {"PYTHONPATH": path, "NO_ALBUMENTATIONS_UPDATE": "1"}
    ray.init(log_to_driver=True, logging_level="WARNING", runtime_env={"env_vars": environment})
    address, resources = ray.get_runtime_context().gcs_address, ray.cluster_resources()
    cpus, gpus = (resources.get(kind, 0) for kind in ("CPU", "GPU"))
    log.info("on the Ray cluster at %s with %d CPUs and %d GPUs", address, cpus, gpus)
