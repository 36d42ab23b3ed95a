"""One HTTP GET, guarded against hostile lists of URLs.

The hosts of the URL and of every redirect are resolved and checked, and the connection goes to a checked address. One
deadline covers everything from the look-up to the last byte, and one limit the size of the body. Errors are returned
as a `FetchFailure` with a reason (see `labeling.download.fetching.fetch_result`).

Proxies named in the environment are not used: the guard could not see which address they connect to.
"""

import email.utils
import http.client
import re
import ssl
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from urllib.parse import urljoin

import urllib3
from urllib3.response import BaseHTTPResponse
from urllib3.util import Url, parse_url

from labeling.config import DownloadConfig
from labeling.download.fetching.addresses import Resolver, any_addresses, public_addresses
from labeling.download.fetching.connection import Connection, Deadline, DeadlineTlsSocket, TlsConnection
from labeling.download.fetching.fetch_result import DETAIL_LENGTH, FetchedBody, FetchError, FetchFailure, FetchResult
from labeling.download.fetching.local_file import is_file_url, read_file_url

CHUNK = 1 << 16
"""Bytes to read at once."""
PORTS = {"http": 80, "https": 443}
NO_AI = frozenset({"noai", "noimageai", "noindex", "noimageindex"})
"""Directives of X-Robots-Tag that forbid keeping an image."""
_ROBOTS_VALUES = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
"""Directives that are followed by a colon and a value, where others may follow the name of a robot."""


def host_of(url: str) -> str:
    """Return the host of `url` in lower case; empty where there is none."""
    try:
        return (parse_url(url.strip()).host or "").lower()
    except urllib3.exceptions.LocationParseError:
        return ""


class Fetcher:
    """Fetches URLs; safe to use from many threads."""

    def __init__(self, config: DownloadConfig, resolve: Resolver | None = None) -> None:
        self.config = config
        self.resolve = resolve or (any_addresses if config.allow_private_hosts else public_addresses)
        self._tls = ssl.create_default_context()
        self._tls.sslsocket_class = DeadlineTlsSocket

    def fetch(self, url: str) -> FetchResult:
        """Return the body that `url` leads to, or why there is none; never raises."""
        if self.config.folder is not None and is_file_url(url):
            return read_file_url(url, Path(self.config.folder), self.config.max_bytes)
        deadline, hops = Deadline(self.config.timeout_s), [url.strip()]
        try:
            return self._follow(hops, deadline)
        except FetchError as error:
            failure = error.failure
        except Exception as error:  # a server can make urllib3 raise anything, which must not end the shard
            failure = _failure_of(error, deadline)
        return replace(failure, after_redirect=host_of(hops[-1]) != host_of(hops[0]))

    def _follow(self, hops: list[str], deadline: Deadline) -> FetchedBody:
        """Return the body that `hops[0]` leads to; append the URLs that it redirects to."""
        for _ in range(self.config.max_redirects + 1):
            answer = self._request(hops[-1], deadline)
            if isinstance(answer, FetchedBody):
                return answer
            if answer in hops:
                raise FetchError("redirect_loop", f"back to {answer} after {len(hops)} redirects")
            hops.append(answer)
        raise FetchError("too_many_redirects", f"more than {self.config.max_redirects}, the last to {hops[-1]}")

    def _request(self, url: str, deadline: Deadline) -> FetchedBody | str:
        """Return the body of the response, or the URL that it redirects to."""
        target = _parse(url)
        connection = self._connection(target, deadline)
        try:
            headers = {"User-Agent": self.config.user_agent, "Accept": "image/*,*/*;q=0.8"}
            connection.request("GET", target.request_uri, headers=headers, preload_content=False)
            response = connection.getresponse()
            if location := response.get_redirect_location():
                return _absolute_url(url, location)
            if not 200 <= response.status < 300:
                retry_after_s = _parse_retry_after(response.headers.get("Retry-After"))
                raise FetchError(f"http_{response.status}", response.reason or "", retry_after_s)
            robots = response.headers.getlist("X-Robots-Tag")
            if self.config.respect_noai and (word := noai_word(robots, self.config.user_agent)):
                raise FetchError("noai", f"X-Robots-Tag: {word}")
            return FetchedBody(self._read_body(response))
        finally:
            connection.close()

    def _connection(self, target: Url, deadline: Deadline) -> Connection | TlsConnection:
        assert target.host is not None, "_parse() refuses URLs without a host"
        port = target.port or PORTS[str(target.scheme)]
        addresses = self._resolve(target.host.strip("[]"), port, deadline)
        if target.scheme == "http":
            return Connection(target.host, port, addresses, deadline)
        return TlsConnection(target.host, port, addresses, deadline, self._tls)

    def _resolve(self, host: str, port: int, deadline: Deadline) -> Sequence[str]:
        """Return the addresses of `host`. The system's resolver has no timeout, so it runs in a thread."""
        addresses: Future[Sequence[str]] = Future()

        def resolve() -> None:
            try:
                addresses.set_result(self.resolve(host, port))
            except BaseException as error:
                addresses.set_exception(error)

        threading.Thread(target=resolve, daemon=True).start()
        return addresses.result(deadline.seconds_left())

    def _read_body(self, response: BaseHTTPResponse) -> bytes:
        limit = self.config.max_bytes
        declared = response.headers.get("Content-Length", "")
        if declared.isascii() and declared.isdecimal() and int(declared) > limit:
            raise FetchError("too_large", f"{int(declared):,} bytes are more than {limit:,}")
        body = bytearray()
        while chunk := response.read(CHUNK):
            body += chunk
            if len(body) > limit:
                raise FetchError("too_large", f"more than {limit:,} bytes")
        return bytes(body)


def noai_word(robots: Iterable[str], user_agent: str) -> str | None:
    """Return the first directive of X-Robots-Tag headers that forbids this program to keep the image; None if none.

    A header may name the robot that it is meant for, as in "otherbot: noai, nofollow".

    Args:
        robots: values of the headers.
        user_agent: setting whose words are the names of this program.
    """
    own_names = set(re.findall(r"[\w.-]+", user_agent.lower())) | {"*"}
    for header in robots:
        applies = True
        for part in header.lower().split(","):
            name, colon, rest = (piece.strip() for piece in part.partition(":"))
            if colon and name not in _ROBOTS_VALUES:
                applies = name in own_names
            if applies and (word := rest if colon else name) in NO_AI:
                return word
    return None


def _parse(url: str) -> Url:
    try:
        target = parse_url(url)
    except urllib3.exceptions.LocationParseError as error:
        raise FetchError("invalid_url", str(error)) from error
    if target.scheme is not None and target.scheme not in PORTS:
        raise FetchError("not_http", f"{target.scheme}:")
    if target.scheme is None or not target.host:
        raise FetchError("invalid_url", "no http:// or https://" if target.scheme is None else "no host")
    if target.port == 0:
        raise FetchError("invalid_url", f"{target.host}: port 0 cannot be connected to")
    return target


def _absolute_url(url: str, location: str) -> str:
    """Return the URL of a Location header: relative to `url`, and UTF-8 where it is not ASCII."""
    try:
        return urljoin(url, location.encode("latin-1").decode("utf-8", "replace").strip())
    except ValueError as error:
        raise FetchError("invalid_url", f"redirected to {location!r}: {error}") from error


def _parse_retry_after(header: str | None) -> float | None:
    """Return the seconds of a Retry-After header; None where it is missing or malformed."""
    if header is None:
        return None
    if header.strip().isascii() and header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


def _failure_of(error: Exception, deadline: Deadline) -> FetchFailure:
    detail = f"{type(error).__name__}: {error}"[:DETAIL_LENGTH]
    try:
        deadline.seconds_left()
    except TimeoutError as timeout:
        return FetchFailure("timeout", str(timeout))
    if isinstance(error, (TimeoutError, urllib3.exceptions.TimeoutError)):
        return FetchFailure("timeout", detail)
    if isinstance(error, (ssl.SSLError, urllib3.exceptions.SSLError)):
        return FetchFailure("tls", detail)
    if isinstance(error, (http.client.RemoteDisconnected, OSError, urllib3.exceptions.ProtocolError)):
        return FetchFailure("connection", detail)
    if isinstance(error, (MemoryError, RuntimeError)):  # "can't start new thread"
        return FetchFailure("no_resources", detail)
    return FetchFailure("bad_response", detail)
