"""Verdicts of a judge on many images: asked in parallel, kept in a file as they come, counted when malformed.

    judge = Judge(ChatConfig(url="http://localhost:8000/v1", model="…"))
    verdicts = judge.judge(questions, Path("out/verdicts.jsonl"))
    summarize(verdicts)         # mean, number of answers, and the malformed ones

Answers cost money, so an answered question is never asked again: the file has one line for each, by the content of its
images, its words, the model and the hash of the questions. A killed call goes on where it was.
"""

import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from PIL import Image as PillowImage

from evaluation.encoders.preprocess import decode_image
from evaluation.errors import ImagesError
from evaluation.judge.chat import Chat, ChatConfig
from evaluation.judge.questions import QUESTIONS_HASH, Question, Verdict, read_answer
from evaluation.judge.verdicts import VerdictWriter, read_verdicts
from infra.redaction import redact
from labeling.sdd.pixels import UndecodableImage

Progress = Callable[[int, int], None]
"""Receives the number of different questions that are answered, and of all."""


class Judge:
    """A model that grades images."""

    def __init__(self, config: ChatConfig) -> None:
        self._config = config
        self._chat = Chat(config)

    def stamp(self) -> dict[str, str]:
        """Return what a score depends on besides the images: model, address and questions."""
        config = self._config
        return {"model": config.model, "url": redact(config.url), "questions": QUESTIONS_HASH}

    def judge(
        self, questions: Sequence[Question], file: Path, *, parallel: int = 8, on_progress: Progress | None = None
    ) -> list[Verdict]:
        """Return the verdict on each question.

        Args:
            questions: the questions.
            file: verdicts of earlier calls, to which those of this call are added; made if missing.
            parallel: number of questions that wait for an answer at the same time.
            on_progress: receives the progress after each answer.

        Raises:
            ImagesError: an image is unreadable.
            JudgeError: the API refuses a request, or does not answer.
            EvaluationError: `file` is damaged.
        """
        keys = [self._key(question) for question in questions]
        known = read_verdicts(file)
        new = {key: question for key, question in zip(keys, questions, strict=True) if key not in known}
        total = len(set(keys))
        for done, (key, verdict) in enumerate(self._ask_all(new, file, parallel), total - len(new) + 1):
            known[key] = verdict
            if on_progress is not None:
                on_progress(done, total)
        return [known[key] for key in keys]

    def _ask_all(self, questions: Mapping[str, Question], file: Path, parallel: int) -> Iterator[tuple[str, Verdict]]:
        """Yield verdicts by key as they come, each after it was written, also those that come beside an error."""
        pool = ThreadPoolExecutor(parallel, thread_name_prefix="judge")
        with VerdictWriter(file) as writer:

            def ask(key: str, question: Question) -> tuple[str, Verdict]:
                verdict = read_answer(self._chat.ask(question.text, [_png(path) for path in question.images]))
                writer.add(key, verdict)
                return key, verdict

            try:
                for answer in as_completed([pool.submit(ask, key, one) for key, one in questions.items()]):
                    yield answer.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _key(self, question: Question) -> str:
        contents = [sha256(_read(path)).hexdigest() for path in question.images]
        parts = [*self.stamp().values(), question.criterion, question.prompt, str(question.run), *contents]
        return sha256(json.dumps(parts).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class JudgeSummary:
    """Verdicts in figures."""

    mean: float | None
    """Mean score, 0 to 1, of the well-formed answers; None if there are none."""
    count: int
    """Number of well-formed answers."""
    malformed: tuple[str, ...]
    """Answers without a grade, as they came."""


def summarize(verdicts: Sequence[Verdict]) -> JudgeSummary:
    """Return the mean of the verdicts, without malformed answers, and these."""
    scores = [verdict.score for verdict in verdicts if verdict.score is not None]
    malformed = tuple(verdict.answer for verdict in verdicts if verdict.score is None)
    return JudgeSummary(sum(scores) / len(scores) if scores else None, len(scores), malformed)


def _png(path: Path) -> bytes:
    try:
        pixels = decode_image(_read(path))
    except UndecodableImage as error:
        raise ImagesError(f"{path} is unreadable ({error.reason}: {error}): a judge needs all images") from error
    file = io.BytesIO()
    PillowImage.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ImagesError(f"{path} is unreadable ({error.strerror}): a judge needs all images") from error
