"""File of verdicts: one line of JSON for each answered question, added as answers come."""

import json
import threading
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from evaluation.errors import EvaluationError
from evaluation.judge.questions import Verdict, read_answer


class VerdictWriter(AbstractContextManager["VerdictWriter"]):
    """Adds verdicts to a file, from any thread.

    Args:
        file: the file; made with its folder if missing.
    """

    def __init__(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        self._lines = file.open("a", encoding="utf-8")
        self._lock = threading.Lock()

    def add(self, key: str, verdict: Verdict) -> None:
        """Add the verdict on the question of a key."""
        with self._lock:
            self._lines.write(json.dumps({"key": key, "answer": verdict.answer}) + "\n")
            self._lines.flush()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()


def read_verdicts(file: Path) -> dict[str, Verdict]:
    """Read the verdicts of earlier calls by the keys of their questions; a torn last line is removed.

    Raises:
        EvaluationError: another line is damaged.
    """
    if not file.is_file():
        return {}
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):  # the writer was killed
        with file.open("r+b") as lines:
            lines.truncate(len(whole))
    verdicts: dict[str, Verdict] = {}
    for number, line in enumerate(whole.splitlines(), 1):
        try:
            entry: Mapping[str, str] = json.loads(line)
            verdicts[entry["key"]] = read_answer(entry["answer"])
        except (ValueError, KeyError, TypeError) as error:
            raise EvaluationError(f"{file}, line {number} is damaged: delete the line; it is asked again") from error
    return verdicts
