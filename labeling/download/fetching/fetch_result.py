"""Result of fetching one URL: the body, or a failure with a reason that statistics can count.

not_http  invalid_url  private_address          the URL, or one that it redirects to, must not be fetched
no_such_host  dns  connection  tls  timeout     there was no response
host_unreachable                                the URL was not requested: its host failed too often in a row
no_resources                                    this machine had no thread or memory left for the request
bad_response  redirect_loop  too_many_redirects  http_404 ...   the response has no image
noai  too_large                                 the image must not be kept
missing_file  unreadable_file  outside_folder   a `file:` URL names no usable file
"""

import re
from dataclasses import dataclass
from typing import TypeAlias

DETAIL_LENGTH = 300
"""Most characters of a failure's detail."""
HOST_UNREACHABLE = "host_unreachable"
_HOST_FAILURES = frozenset({"timeout", "connection", "dns"})
_RETRYABLE = re.compile(rf"timeout|connection|dns|no_resources|{HOST_UNREACHABLE}|http_(408|425|429|5\d\d)")


@dataclass(frozen=True, slots=True)
class FetchedBody:
    """Body of a successful response."""

    body: bytes


@dataclass(frozen=True, slots=True)
class FetchFailure:
    """Failure to get a body."""

    reason: str
    detail: str = ""
    retry_after_s: float | None = None
    """Seconds to wait before the next request, from the header Retry-After; None without that header."""
    after_redirect: bool = False
    """Whether another host failed, to which the URL's own host had redirected."""


FetchResult: TypeAlias = FetchedBody | FetchFailure


class FetchError(Exception):
    """Reason to end a fetch; it carries the failure to return."""

    def __init__(self, reason: str, detail: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.failure = FetchFailure(reason, detail[:DETAIL_LENGTH], retry_after_s)


def is_retryable(reason: str) -> bool:
    """Return whether a later request may succeed."""
    return _RETRYABLE.fullmatch(reason) is not None


def is_host_failure(failure: FetchFailure) -> bool:
    """Return whether the URL's host may be down: no connection, or no complete response in time."""
    return failure.reason in _HOST_FAILURES and not failure.after_redirect
