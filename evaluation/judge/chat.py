"""Client of a chat API compatible with OpenAI's: one request with words and images, repeated after transient errors."""

import json
import logging
import os
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from pydantic import Field

from evaluation.errors import JudgeError
from infra.config import Config
from infra.ranges import Count, Seconds
from infra.redaction import redact
from infra.weights.files import shorten

log = logging.getLogger(__name__)
_TRANSIENT = frozenset({408, 409, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed."""
_LONGEST_WAIT_S = 60.0


class ChatConfig(Config):
    """A model behind a chat API."""

    url: str = Field(default="https://api.openai.com/v1", pattern="^https?://")
    """Address of the API, before `/chat/completions`."""
    model: str = "gpt-4o-2024-05-13"
    """Name of the model; a dated one, as others change. DreamBench++ used this one."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the key of the API; no key is sent if it is not set."""
    timeout_s: Seconds = 120.0
    """Longest wait for an answer."""
    attempts: Count = 6
    """Number of requests before a transient error counts."""
    wait_s: Seconds = 2.0
    """Wait after the first transient error, doubled after each further one, unless the API asks for another."""


class Chat:
    """Client of one model."""

    def __init__(self, config: ChatConfig) -> None:
        self.config = config
        key = os.environ.get(config.key_variable, "")
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    def ask(self, text: str, pngs: Sequence[bytes]) -> str:
        """Return the answer to a text with images.

        Args:
            text: the question.
            pngs: images as PNG files, in order.

        Raises:
            JudgeError: the API refuses the request, or does not answer after all attempts.
        """
        parts: list[Mapping[str, object]] = [{"type": "text", "text": text}]
        parts += [{"type": "image_url", "image_url": {"url": _data_url(png)}} for png in pngs]
        messages = [{"role": "user", "content": parts}]
        body = json.dumps({"model": self.config.model, "temperature": 0, "max_tokens": 300, "messages": messages})
        return _answer(self._post(body.encode()), self._place)

    @property
    def _place(self) -> str:
        return f"{self.config.model} at {redact(self.config.url)}"

    def _post(self, body: bytes) -> Any:
        problem = ""
        for attempt in range(self.config.attempts):
            try:
                return self._send(body)
            except _TransientError as error:
                problem = str(error)
                if attempt + 1 < self.config.attempts:
                    wait_s = min(error.wait_s or self.config.wait_s * 2**attempt, _LONGEST_WAIT_S)
                    log.info("%s: %s; again in %.1f s", self._place, problem, wait_s)
                    time.sleep(wait_s)
        raise JudgeError(
            f"{self._place} gave no answer in {self.config.attempts} attempts ({problem}): check the address, or go on "
            f"later; verdicts so far are kept"
        )

    def _send(self, body: bytes) -> Any:
        request = Request(f"{self.config.url.rstrip('/')}/chat/completions", body, self._headers)
        try:
            with urlopen(request, timeout=self.config.timeout_s) as response:
                return json.load(response)
        except HTTPError as error:
            raise self._error(error) from error
        except (OSError, HTTPException, ValueError) as error:
            raise _TransientError(f"{type(error).__name__}: {error}") from error

    def _error(self, error: HTTPError) -> Exception:
        with error:
            said = shorten(error.read(2000).decode(errors="replace").strip())
        if error.code in _TRANSIENT:
            asked = error.headers.get("Retry-After", "")
            return _TransientError(f"status {error.code}: {said}", float(asked) if asked.isdigit() else None)
        cure = "check the name of the model and the address"
        if error.code in (401, 403):
            cure = f"put a valid key into the environment variable {self.config.key_variable}"
        return JudgeError(f"{self._place} refuses the request with status {error.code} ({said}): {cure}")


class _TransientError(Exception):
    """A request failed, and may succeed later."""

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s
        """Wait that the API asks for, in seconds."""


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{b64encode(png).decode()}"


def _answer(response: Any, place: str) -> str:
    """Return the text of a response.

    Raises:
        JudgeError: it is no response of a chat API.
    """
    try:
        return str(response["choices"][0]["message"]["content"] or "")
    except (KeyError, IndexError, TypeError) as error:
        raise JudgeError(
            f"{place} answers with {shorten(response)}, which is no chat completion: check the address"
        ) from error
