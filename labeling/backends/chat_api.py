"""Captions by a model behind a chat API compatible with OpenAI's: vLLM, llama.cpp, Ollama, or a service."""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infra.chat import Chat, ChatError, ChatUnauthorised, ChatUnavailable, Picture
from labeling.config import CaptionConfig
from labeling.errors import CaptionApiError
from labeling.stages.base import Failure

JPEG_QUALITY = 90
"""Quality of the JPEGs that are sent."""


class ChatApiCaptioner:
    """Captioner that asks a model for each image by itself, several images at a time.

    An image whose request fails gets a failure with its reason. An API that does not answer when the worker starts, or
    that refuses the key then, ends the run, as it would fail every image.
    """

    def __init__(self, config: CaptionConfig) -> None:
        """Check that the API answers.

        Raises:
            CaptionApiError: it does not, or refuses the key.
        """
        self._config = config
        self._chat = Chat(config.api)
        try:
            self._chat.check()
        except ChatError as error:
            raise CaptionApiError(f"labeling.caption.api: {error}") from error
        self._pool = ThreadPoolExecutor(config.api.concurrency)

    @property
    def input_px(self) -> None:
        """None, as a picture keeps its aspect ratio and up to `api.max_side_px` of its size."""

    def prepare(self, image: NDArray[np.uint8]) -> Picture:
        """Shrink an upright RGB image [H, W, 3] to the longest side of the settings, and encode it as JPEG."""
        picture = Image.fromarray(image)
        picture.thumbnail((self._config.api.max_side_px,) * 2, Image.Resampling.LANCZOS)
        file = io.BytesIO()
        picture.save(file, "JPEG", quality=JPEG_QUALITY)
        return Picture("image/jpeg", file.getvalue())

    def caption(self, prepared: Sequence[Picture]) -> list[str | Failure]:
        """Return the answer for each image, or why there is none."""
        return list(self._pool.map(self._ask, prepared))

    def _ask(self, picture: Picture) -> str | Failure:
        try:
            answer = self._chat.ask(self._config.api.instruction, [picture], self._config.max_new_tokens)
        except ChatUnauthorised as error:
            return Failure("api_unauthorised", str(error))
        except ChatUnavailable as error:
            return Failure("api_unavailable", str(error))
        except ChatError as error:
            return Failure("api_refused", str(error))
        return " ".join(answer.split())
