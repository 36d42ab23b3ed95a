"""Client of a chat API compatible with OpenAI's: one request with words and images, repeated after transient errors."""

import json
import logging
import os
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from pydantic import Field

from infra.config import Config
from infra.ranges import Count, Seconds
from infra.redaction import redact
from infra.weights.files import shorten

log = logging.getLogger(__name__)
_TRANSIENT = frozenset({408, 409, 429, 500, 502, 503, 504})
"""Statuses after which the same request may succeed."""
_UNAUTHORISED = frozenset({401, 403})
_LONGEST_WAIT_S = 60.0


class ChatApiConfig(Config):
    """A model behind a chat API."""

    url: str = Field(default="https://api.openai.com/v1", pattern="^https?://")
    """Address of the API, before `/chat/completions`."""
    model: str = ""
    """Name of the model; a dated one, as others change."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the key of the API; no key is sent if it is not set."""
    timeout_s: Seconds = 120.0
    """Longest wait for an answer."""
    attempts: Count = 6
    """Number of requests before a transient error counts."""
    wait_s: Seconds = 2.0
    """Wait after the first transient error, doubled after each further one, unless the API asks for another."""


class ChatError(Exception):
    """The API refuses a request, or answers with something else than a chat completion."""


class ChatUnavailable(ChatError):
    """The API gave no answer in all attempts."""


class ChatUnauthorised(ChatError):
    """The API refuses the key."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded image."""

    media_type: str
    """image/png or image/jpeg."""
    encoded: bytes

    @property
    def part(self) -> Mapping[str, object]:
        """The image as a part of a message."""
        url = f"data:{self.media_type};base64,{b64encode(self.encoded).decode()}"
        return {"type": "image_url", "image_url": {"url": url}}


class Chat:
    """Client of one model; thread-safe."""

    def __init__(self, config: ChatApiConfig) -> None:
        self.config = config
        key = os.environ.get(config.key_variable, "")
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})

    def ask(self, text: str, pictures: Sequence[Picture], max_tokens: int) -> str:
        """Return the most likely answer to a text with images.

        Args:
            text: the question.
            pictures: images, in order.
            max_tokens: longest answer, in tokens.

        Raises:
            ChatError: the API refuses the request, or does not answer after all attempts.
        """
        parts = [{"type": "text", "text": text}, *(picture.part for picture in pictures)]
        messages = [{"role": "user", "content": parts}]
        body = {"model": self.config.model, "temperature": 0, "max_tokens": max_tokens, "messages": messages}
        return _answer(self._post(json.dumps(body).encode()), self._place)

    def check(self) -> None:
        """Ask for the list of models, to find out whether the API answers and takes the key. Makes one attempt.

        Raises:
            ChatUnavailable: nothing answers at the address.
            ChatUnauthorised: the API refuses the key.
        """
        try:
            urlopen(Request(f"{self.config.url.rstrip('/')}/models", headers=self._headers), timeout=10).close()
        except HTTPError as error:
            if error.code in _UNAUTHORISED:
                raise self._error(error) from error
            error.close()  # an API need not have this list
        except (OSError, HTTPException) as error:
            raise ChatUnavailable(
                f"{self._place} does not answer ({type(error).__name__}: {error}): check the address"
            ) from error

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
        raise ChatUnavailable(
            f"{self._place} gave no answer in {self.config.attempts} attempts ({problem}): check the address, or go on "
            "later"
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
            answer = shorten(error.read(2000).decode(errors="replace").strip())
        if error.code in _TRANSIENT:
            asked = error.headers.get("Retry-After", "")
            return _TransientError(f"status {error.code}: {answer}", float(asked) if asked.isdigit() else None)
        refusal = f"{self._place} refuses the request with status {error.code} ({answer})"
        if error.code in _UNAUTHORISED:
            return ChatUnauthorised(
                f"{refusal}: put a valid key into the environment variable {self.config.key_variable}"
            )
        return ChatError(f"{refusal}: check the name of the model and the address")


class _TransientError(Exception):
    """A request failed, and may succeed later."""

    def __init__(self, message: str, wait_s: float | None = None) -> None:
        super().__init__(message)
        self.wait_s = wait_s
        """Wait that the API asks for, in seconds."""


def _answer(response: Any, place: str) -> str:
    """Return the text of a response.

    Raises:
        ChatError: it is no response of a chat API.
    """
    try:
        return str(response["choices"][0]["message"]["content"] or "")
    except (KeyError, IndexError, TypeError) as error:
        raise ChatError(
            f"{place} answers with {shorten(response)}, which is no chat completion: check the address"
        ) from error
