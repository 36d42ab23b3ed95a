"""Errors of the API, in the shape of OpenAI's: {"error": {"message", "type", "param", "code"}}."""

import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from flows.generation.errors import GenerationCanceled, InvalidJob
from flows.serving.queue import QueueClosed, QueueFull
from labeling.errors import LabelingError
from model.errors import ModelError

log = logging.getLogger(__name__)
CLIENT_CLOSED_REQUEST = 499
"""Status of a request whose client went away; nobody reads it."""


class ErrorDetails(BaseModel):
    """What is wrong with a request."""

    message: str
    """What is wrong and what to do."""
    type: str
    """Kind of error: invalid_request_error, authentication_error, rate_limit_error or server_error."""
    param: str | None = None
    """Field of the request that is wrong, such as subjects.0.box."""
    code: str | None = None
    """Cause as one word, for programs."""


class ErrorBody(BaseModel):
    """Body of every response that is not 200."""

    error: ErrorDetails
    """The error."""


class ApiError(Exception):
    """A request that is refused.

    Args:
        message: what is wrong and what to do.
        param: field of the request that is wrong.
        code: cause as one word, for programs.
        status: HTTP status.
        kind: kind of error.
        headers: further headers of the response.
    """

    def __init__(
        self,
        message: str,
        param: str | None = None,
        code: str | None = "invalid_value",
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.details = ErrorDetails(message=message, type=kind, param=param, code=code)
        self.status = status
        self.headers = headers

    def response(self) -> JSONResponse:
        """Return the response that refuses the request."""
        return JSONResponse(ErrorBody(error=self.details).model_dump(), self.status, self.headers)


def too_many_requests(message: str, retry_after_s: int) -> ApiError:
    """Return the error of a request for which there is no room now."""
    headers = {"Retry-After": str(retry_after_s)}
    return ApiError(message, None, "queue_full", status=429, kind="rate_limit_error", headers=headers)


def as_api_error(error: Exception) -> ApiError:
    """Return the error that a client sees for any error of a request."""
    match error:
        case ApiError():
            return error
        case InvalidJob() | LabelingError() | ModelError():
            return ApiError(str(error))
        case QueueFull():
            return too_many_requests(str(error), error.retry_after_s)
        case QueueClosed():
            return ApiError(str(error), None, "stopping", status=503, kind="server_error")
        case GenerationCanceled():
            return ApiError(str(error), None, "canceled", status=CLIENT_CLOSED_REQUEST)
        case RequestValidationError():
            return _as_invalid_field(error)
        case HTTPException():
            return ApiError(str(error.detail), None, None, status=error.status_code, headers=error.headers)
    log.error("a request failed", exc_info=error)
    message = "the server failed; its log says why"
    return ApiError(message, None, "internal_error", status=500, kind="server_error")


def _as_invalid_field(error: RequestValidationError) -> ApiError:
    """Return the error of the first field that is wrong; the message names all."""
    fields = [(_field_name(one["loc"]), one["msg"].removeprefix("Value error, ")) for one in error.errors()]
    message = "; ".join(f"{name}: {text}" if name else text for name, text in fields)
    return ApiError(message, fields[0][0])


def _field_name(location: tuple[int | str, ...]) -> str | None:
    return ".".join(str(part) for part in location[1:]) or None


def add_error_handlers(app: FastAPI) -> None:
    """Make the app answer every error with an error object."""

    async def respond(request: Request, error: Exception) -> JSONResponse:
        return as_api_error(error).response()

    kinds: tuple[type[Exception], ...] = (ApiError, RequestValidationError, HTTPException, Exception)
    for kind in kinds:
        app.add_exception_handler(kind, respond)
