"""Writes the images of jobs as they are done, counts them, and draws the contact sheet at the end."""

import hashlib
import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from flows.generation.errors import InvalidJob
from flows.generation.images import decode_subject
from flows.generation.job import GenerationJob
from flows.generation.jobs import Failure, ImageFile, JobLine, Outcome
from flows.generation.output import OutputFolder
from flows.generation.png import read_png
from flows.generation.sheet import SheetRow, draw_sheet

SHEET_ROWS = 32
"""Jobs on a contact sheet at most."""
SHEET_IMAGES = 24
"""Images of a job on a contact sheet at most."""
_SHEET_KEYWORD = "subject-diffusion-sheet"
"""Keyword of the text that tells which images a contact sheet shows."""


@dataclass(frozen=True)
class Terminal:
    """How a session talks to its user."""

    show_file: Callable[[Path], None]
    """Called with each file that was made or exists."""
    say: Callable[[str], None]
    """Called with each remark."""
    complain: Callable[[Failure], None]
    """Called with each job that failed."""


class Session:
    """Writes the images of jobs to a folder.

    Args:
        output: the folder.
        terminal: shows what happens.
    """

    def __init__(self, output: OutputFolder, terminal: Terminal) -> None:
        self._output = output
        self._terminal = terminal
        self._files: dict[str, dict[int, Path]] = defaultdict(dict)
        self.known = output.names()
        """Names of the files in the folder."""
        self.made = 0
        """Images that were made."""
        self.existing = 0
        """Images that existed."""
        self.failures: list[Failure] = []
        """Jobs that failed, wholly or in part."""

    def fail(self, failure: Failure) -> None:
        """Record and show a failure."""
        self.failures.append(failure)
        self._terminal.complain(failure)

    def write(self, outcomes: Iterable[Outcome]) -> None:
        """Write each image when it is done.

        Raises:
            OutputError: the disk is full, or the folder is not writable any more.
        """
        for outcome in outcomes:
            if isinstance(outcome, Failure):
                self.fail(outcome)
                continue
            try:
                path = self._store(outcome)
            except InvalidJob as error:
                self.fail(Failure(outcome.source, str(error)))
                continue
            self._files[outcome.source][outcome.seed] = path
            self._terminal.show_file(path)
            for remark in outcome.remarks:
                self._terminal.say(f"{outcome.source}: {remark}")

    def _store(self, outcome: ImageFile) -> Path:
        """Write an image, or find the one that exists."""
        if outcome.content is None:
            path = self._output.existing(outcome.name)
            self.existing += 1
            return path
        path = self._output.write(outcome.name, outcome.content)
        self.known.add(outcome.name)
        self.made += 1
        return path

    def draw_sheet(self, lines: Sequence[JobLine], read: Callable[[JobLine], GenerationJob]) -> Path | None:
        """Draw the contact sheet of the first jobs that have images; None if no job has.

        It gets another name if `contact_sheet.png` shows images that are not on it.

        Args:
            lines: the jobs.
            read: returns the job of a line with the bytes of its images.
        """
        shown = [line for line in lines if self._files.get(line.source)][:SHEET_ROWS]
        if not shown:
            return None
        files = {line.source: [path for _, path in sorted(self._files[line.source].items())] for line in shown}
        sheet = draw_sheet([_sheet_row(read(line), files[line.source][:SHEET_IMAGES]) for line in shown])
        names = [path.name for line in shown for path in files[line.source][:SHEET_IMAGES]]
        info, content = PngInfo(), io.BytesIO()
        info.add_itxt(_SHEET_KEYWORD, json.dumps(names))
        sheet.save(content, "PNG", pnginfo=info)
        return self._output.write(self._sheet_name(names), content.getvalue())

    def _sheet_name(self, names: Sequence[str]) -> str:
        plain = self._output.folder / "contact_sheet.png"
        if not plain.exists() or _names_on_sheet(plain) <= set(names):
            return plain.name
        return f"contact_sheet-{hashlib.sha256(json.dumps(names).encode()).hexdigest()[:12]}.png"


def _names_on_sheet(path: Path) -> set[str]:
    """Return the names of the images on a contact sheet; the name of the file itself if it is no contact sheet."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            assert isinstance(image, PngImageFile)
            return set(json.loads(image.text[_SHEET_KEYWORD]))
    except (OSError, ValueError, KeyError, TypeError, SyntaxError, Image.DecompressionBombError):
        return {path.name}


def _sheet_row(job: GenerationJob, files: Sequence[Path]) -> SheetRow:
    subjects = []
    for subject in job.subjects:
        photo = decode_subject(subject).photos[0]
        cutout = np.dstack([photo.pixels, photo.outline.astype(np.uint8) * np.uint8(255)])
        subjects.append((subject.label, Image.fromarray(cutout)))
    return SheetRow(job.prompt, subjects, [read_png(path)[0] for path in files])
