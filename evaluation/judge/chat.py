"""The model that judges, behind a chat API."""

from collections.abc import Sequence

from evaluation.errors import JudgeError
from infra.chat import Chat as ChatClient
from infra.chat import ChatApiConfig, ChatError, ChatUnavailable, Picture

_LONGEST_ANSWER = 300
"""Length of the longest answer, in tokens."""


class ChatConfig(ChatApiConfig):
    """A model behind a chat API."""

    model: str = "gpt-4o-2024-05-13"
    """Name of the model; a dated one, as others change. DreamBench++ used this one."""


class Chat:
    """Client of one model."""

    def __init__(self, config: ChatConfig) -> None:
        self.config = config
        self._client = ChatClient(config)

    def ask(self, text: str, pngs: Sequence[bytes]) -> str:
        """Return the answer to a text with images.

        Args:
            text: the question.
            pngs: images as PNG files, in order.

        Raises:
            JudgeError: the API refuses the request, or does not answer after all attempts.
        """
        try:
            return self._client.ask(text, [Picture("image/png", png) for png in pngs], _LONGEST_ANSWER)
        except ChatUnavailable as error:
            raise JudgeError(f"{error}; verdicts so far are kept") from error
        except ChatError as error:
            raise JudgeError(str(error)) from error
