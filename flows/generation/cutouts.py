"""Subjects of opaque photos: cut out by the networks that label a dataset, before a job is run."""

import hashlib
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from flows.cutout import write_cutout
from flows.cutout_networks import naming_small_networks, small_networks_remark
from flows.generation.errors import InvalidJob
from flows.generation.images import decode_image, read_source
from flows.generation.job import GenerationJob, ImageSource, JobSubject
from labeling.cutout import Cutter
from labeling.cutout_preview import draw_cutout
from labeling.errors import LabelingError, NothingFound
from labeling.sdd.picture import save

if TYPE_CHECKING:
    from labeling.cutout import Cutout

OPTION = "--cutout"
"""Option that sets the networks."""
Say = Callable[[str], None]
"""Function that tells the user something."""


class SubjectCutter:
    """Cuts the subjects of jobs out of pictures that have neither transparency nor mask, and writes the cut-outs.

    The name of a cut-out tells photo, label and networks, so that a later run takes the file that exists.

    Args:
        cutter: the detector and the segmenter.
        folder: folder of the cut-outs and their previews; created when it is needed.
        say: tells what was cut out.
    """

    def __init__(self, cutter: Cutter, folder: Path, say: Say) -> None:
        self._cutter = cutter
        self._folder = folder
        self._say = say
        self._told: set[Path] = set()
        """Cut-outs that the user was told about."""

    def cut_subjects(self, job: GenerationJob) -> GenerationJob:
        """Return the job with a cut-out in place of each opaque picture without a mask.

        Args:
            job: the job with the bytes of its images.

        Raises:
            InvalidJob: a picture cannot be decoded, or the networks find no subject in it.
        """
        return job.model_copy(update={"subjects": tuple(map(self._cut_subject, job.subjects))})

    def _cut_subject(self, subject: JobSubject) -> JobSubject:
        if subject.masks is not None:
            return subject
        return subject.model_copy(
            update={"images": tuple(self.cut(source, subject.label) for source in subject.images)}
        )

    def cut(self, source: ImageSource, label: str) -> ImageSource:
        """Return the cut-out of a picture that has its bytes; the picture itself if it has transparency.

        Raises:
            InvalidJob: as `cut_subjects`.
        """
        photo = decode_image(source)
        if photo.opaque is not None:
            return source
        path = self._path(source, label)
        if path.exists():
            self._tell(path, f"{source.name}: {label!r} was cut out before: {path}")
        else:
            try:
                with naming_small_networks(self._cutter, OPTION):
                    self._write(self._cutter.cut(photo, label), path, source.name)
            except NothingFound as error:
                raise InvalidJob(f"{error}. {_cure(source.name, label)}") from error
            except (LabelingError, OSError) as error:
                raise InvalidJob(
                    f"{source.name} has no transparency around {label!r}, and cannot be cut out: {error}"
                ) from error
        return read_source(ImageSource(file=str(path)), Path())

    def _tell(self, path: Path, text: str) -> None:
        """Tell the user about a cut-out, once."""
        if path not in self._told:
            self._told.add(path)
            self._say(text)

    def _write(self, found: "Cutout", path: Path, name: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        preview = path.with_suffix(".preview.png")
        save(draw_cutout(found), str(preview))
        write_cutout(found, path)
        score = "" if found.score is None else f", score {found.score:.2f}"
        text = (
            f"{name}: cut out {found.label!r} ({found.mask.mean():.1%} of the photo{score}): {path}\n"
            f"  Look at {preview}. To correct it, give a mask, or use `subject-diffusion cutout {name}`."
        )
        remark = small_networks_remark(self._cutter, OPTION)
        self._tell(path, f"{text}\n  {remark}." if remark else text)

    def _path(self, source: ImageSource, label: str) -> Path:
        """Return the path of a cut-out: the photo's name, and a hash of photo, label and networks."""
        cutter = self._cutter
        identity = [source.sha256 or "", label, cutter.detect.fingerprint(), cutter.segment.fingerprint()]
        digest = hashlib.sha256("\n".join(identity).encode()).hexdigest()[:12]
        stem = Path(source.without_data().file or "subject").stem
        return self._folder / f"{stem}-{digest}.png"


def _cure(photo: str, label: str) -> str:
    """Return how to cut out by hand what the detector does not find."""
    cutout = f"{Path(photo).stem}.cutout.png"
    command = ["subject-diffusion", "cutout", photo, "--label", label, "--box", "0.1,0.3,0.5,0.9", "--out", cutout]
    return f"With a box: `{shlex.join(command)}`, then `--subject {shlex.quote(f'{cutout}:{label}')}`"
