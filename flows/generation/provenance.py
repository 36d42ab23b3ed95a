"""Where an image comes from: its job, the hashes of subjects and model, and the versions of the libraries."""

import hashlib
import json
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from pydantic import Field

from flows.generation.job import GenerationJob, ImageSource
from infra.config import Config
from infra.ranges import Count, CountOrZero, Seed

FORMAT = 1
"""Version of the fields of `Provenance`."""
LIBRARIES = ("subject-diffusion", "torch", "diffusers", "transformers", "open_clip_torch", "numpy", "pillow")
"""Distributions whose versions an image records."""
_MODEL_FILES = (".json", ".safetensors", ".txt", ".bin")
"""Endings of the files that determine a model."""


class Batch(Config):
    """Place of an image in the batch that it was computed in. Rounding can depend on it."""

    size: Count
    """Images of the batch."""
    position: CountOrZero
    """Number of the image in the batch, from 0."""


class ModelIdentity(Config):
    """The model that made an image."""

    name: str
    """Last part of the path of the model's folder."""
    sha256: str
    """Hash of the names and contents of the folder's files."""


class Provenance(Config):
    """Everything that determines one image."""

    format: int = Field(default=FORMAT, ge=1, le=FORMAT)
    """Version of these fields."""
    job: GenerationJob
    """The job, with all settings that it left to the model, and without the bytes of its images unless embedded."""
    seed: Seed
    """Seed of this image's noise."""
    model: ModelIdentity
    """The model."""
    batch: Batch
    """Batch of the image."""
    device: str
    """Kind of device: cpu, cuda."""
    dtype: str
    """Precision of the weights."""
    versions: dict[str, str] = Field(default_factory=dict)
    """Versions of Python and of the libraries."""

    def fingerprint(self) -> str:
        """Return 12 hex digits that name the image: settings, seed, images, model and precision, not the machine.

        An image of a job has the same fingerprint whatever the number of images of the job.
        """
        job = self.job.map_sources(lambda source: source.model_copy(update={"file": None, "data": None}))
        same = job.model_copy(update={"seed": self.seed, "n": 1})
        identity = [self.format, same.model_dump_json(), self.model.sha256, self.dtype]
        return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]

    def embed(self, job: GenerationJob) -> "Provenance":
        """Return the provenance with the bytes of the images of its job.

        Args:
            job: the job with the bytes of its images.
        """

        def keep_name(source: ImageSource) -> ImageSource:
            return source.without_data().model_copy(update={"data": source.data})

        return self.model_copy(update={"job": job.map_sources(keep_name)})


@cache
def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that compute images."""
    return {"python": platform.python_version(), **{name: _version(name) for name in LIBRARIES}}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"


def identify_model(folder: Path) -> ModelIdentity:
    """Return name and hash of a model's folder. Files of other kinds, such as a README, do not count."""
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.suffix in _MODEL_FILES and path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return ModelIdentity(name=folder.resolve().name, sha256=whole.hexdigest())
