"""One HTTP GET that a hostile list of URLs cannot turn against us.

Every hop of a redirect is looked up, checked and connected to by the very address that was checked; the answer has one
deadline, from the look-up to the last byte, and one limit on its size. What goes wrong is returned, with a reason
that statistics can count:

    not_http  invalid_url  private_address          the URL, or one that it redirects to, is not for us
    no_such_host  dns  connection  tls  timeout     there was no answer
    host_unreachable                                the URL was not asked for: its host failed too often in a row
    no_resources                                    this machine had no thread or memory left to ask
    bad_response  redirect_loop  too_many_redirects  http_404 ...   the answer is not the picture
    noai  too_large                                 the answer is not to be kept

Proxies named in the environment are not used: the guard could not see where they connect to.
"""

import email.utils
import http.client
import ipaddress
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urljoin

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.util import Url, parse_url

from labeling.config import DownloadConfig

CHUNK = 1 << 16
DETAIL_LENGTH = 300
PORTS = {"http": 80, "https": 443}
NO_AI = frozenset({"noai", "noimageai", "noindex", "noimageindex"})
_ROBOTS_VALUES = frozenset({"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"})
MAX_INTERIM = 16
"""Informational responses (1xx) of one request that are skipped; a server that sends more is broken or hostile."""
HOST_UNREACHABLE = "host_unreachable"
_HOST_FAILURES = frozenset({"timeout", "connection", "dns"})
_PASSING = re.compile(rf"timeout|connection|dns|no_resources|{HOST_UNREACHABLE}|http_(408|425|429|5\d\d)")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_ALSO_LOCAL = tuple(map(ipaddress.ip_network, ("64:ff9b:1::/48", "fec0::/10", "::/96", "::ffff:0:0:0/96")))
"""Local networks that `is_global` does not know, and outdated ways to write IPv4 addresses, where no server is."""
_UNKNOWN_HOST = {getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA") if hasattr(socket, name)}

Resolver = Callable[[str, int], Sequence[str]]
"""The addresses of a host that may be connected to; raises `Unfetchable` where there are none."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """The body of a good answer."""

    body: bytes


@dataclass(frozen=True, slots=True)
class NotFetched:
    """Why there is no body."""

    reason: str
    detail: str = ""
    retry_after_s: float | None = None
    """What the server asked for (Retry-After)."""
    elsewhere: bool = False
    """Whether the URL's own host answered, with a redirect to another host that failed."""


class Unfetchable(Exception):
    """A URL, host or answer that will not do."""

    def __init__(self, reason: str, detail: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.answer = NotFetched(reason, detail[:DETAIL_LENGTH], retry_after_s)


def is_passing(reason: str) -> bool:
    """Whether a later try may end otherwise."""
    return _PASSING.fullmatch(reason) is not None


def is_host_failure(answer: NotFetched) -> bool:
    """Whether the URL's host may be down: no connection, or no complete answer in time."""
    return answer.reason in _HOST_FAILURES and not answer.elsewhere


def host_of(url: str) -> str:
    """The host that `url` names, in lower case; empty where it names none."""
    try:
        return (parse_url(url.strip()).host or "").lower()
    except urllib3.exceptions.LocationParseError:
        return ""


class Deadline:
    """A moment that all steps of one fetch share."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds until then; never 0.

        Raises:
            TimeoutError: there are none.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"not done within {self._seconds:g} s")
        return left


class Fetcher:
    """Fetches URLs; safe to use from many threads."""

    def __init__(self, config: DownloadConfig, resolve: Resolver | None = None) -> None:
        self.config = config
        self.resolve = resolve or (any_addresses if config.allow_private_hosts else public_addresses)
        self._tls = ssl.create_default_context()
        self._tls.sslsocket_class = _TimedTlsSocket

    def fetch(self, url: str) -> Fetched | NotFetched:
        """The body that `url` leads to, or why there is none; never raises."""
        deadline, hops = Deadline(self.config.timeout_s), [url.strip()]
        try:
            return self._follow(hops, deadline)
        except Unfetchable as refusal:
            answer = refusal.answer
        except Exception as error:  # whatever a server makes urllib3 raise must not end the shard
            answer = _not_fetched(error, deadline)
        return replace(answer, elsewhere=host_of(hops[-1]) != host_of(hops[0]))

    def _follow(self, hops: list[str], deadline: Deadline) -> Fetched:
        """The body that `hops[0]` leads to; the URLs that it redirects to are added to `hops`."""
        for _ in range(self.config.max_redirects + 1):
            answer = self._hop(hops[-1], deadline)
            if isinstance(answer, Fetched):
                return answer
            if answer in hops:
                raise Unfetchable("redirect_loop", f"back to {answer} after {len(hops)} redirects")
            hops.append(answer)
        raise Unfetchable("too_many_redirects", f"more than {self.config.max_redirects}, the last to {hops[-1]}")

    def _hop(self, url: str, deadline: Deadline) -> Fetched | str:
        """The answer's body, or the URL that it redirects to."""
        target = _parsed(url)
        connection = self._connection(target, deadline)
        try:
            headers = {"User-Agent": self.config.user_agent, "Accept": "image/*,*/*;q=0.8"}
            connection.request("GET", target.request_uri, headers=headers, preload_content=False)
            response = connection.getresponse()
            if location := response.get_redirect_location():
                return _absolute(url, location)
            if not 200 <= response.status < 300:
                asked = _retry_after(response.headers.get("Retry-After"))
                raise Unfetchable(f"http_{response.status}", response.reason or "", asked)
            robots = response.headers.getlist("X-Robots-Tag")
            if self.config.respect_noai and (word := noai_word(robots, self.config.user_agent)):
                raise Unfetchable("noai", f"X-Robots-Tag: {word}")
            return Fetched(self._body(response))
        finally:
            connection.close()

    def _connection(self, target: Url, deadline: Deadline) -> "_Connection | _TlsConnection":
        assert target.host is not None, "_parsed() lets no URL without a host through"
        port = target.port or PORTS[str(target.scheme)]
        addresses = self._look_up(target.host.strip("[]"), port, deadline)
        if target.scheme == "http":
            return _Connection(target.host, port, addresses, deadline)
        return _TlsConnection(target.host, port, addresses, deadline, self._tls)

    def _look_up(self, host: str, port: int, deadline: Deadline) -> Sequence[str]:
        """The addresses of `host`. The system's resolver knows no deadline, so a thread waits for it."""
        found: Future[Sequence[str]] = Future()

        def look_up() -> None:
            try:
                found.set_result(self.resolve(host, port))
            except BaseException as error:
                found.set_exception(error)

        threading.Thread(target=look_up, daemon=True).start()
        return found.result(deadline.left())

    def _body(self, response: Any) -> bytes:
        limit = self.config.max_bytes
        declared = response.headers.get("Content-Length", "")
        if declared.isascii() and declared.isdecimal() and int(declared) > limit:
            raise Unfetchable("too_large", f"{int(declared):,} bytes are more than {limit:,}")
        body = bytearray()
        while chunk := response.read(CHUNK):
            body += chunk
            if len(body) > limit:
                raise Unfetchable("too_large", f"more than {limit:,} bytes")
        return bytes(body)


def any_addresses(host: str, port: int) -> list[str]:
    """All addresses of `host`, in the system's order.

    Raises:
        Unfetchable: it has none.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a label of more than 63 characters
        raise Unfetchable("invalid_url", f"{host}: {error}") from error
    except socket.gaierror as error:
        reason = "no_such_host" if error.errno in _UNKNOWN_HOST else "dns"
        raise Unfetchable(reason, f"{host}: {error.strerror}") from error
    return [str(sockaddr[0]) for *_, sockaddr in found]


def public_addresses(host: str, port: int) -> list[str]:
    """Those addresses of `host` that anybody on the internet would get.

    Raises:
        Unfetchable: it has none.
    """
    addresses = any_addresses(host, port)
    if public := [address for address in addresses if is_public(address)]:
        return public
    raise Unfetchable(
        "private_address", f"{host} is {addresses[0]}; --set labeling.download.allow_private_hosts=true would fetch it"
    )


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, and so is any IPv4 address that it stands for."""
    ip = ipaddress.ip_address(address)
    return all(
        each.is_global and not each.is_multicast and not any(each in network for network in _ALSO_LOCAL)
        for each in (ip, *_embedded(ip))
    )


def _embedded(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses that gateways would make of an IPv6 address."""
    if isinstance(ip, ipaddress.IPv4Address):
        return []
    nat64 = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None
    return [v4 for v4 in (ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ()), nat64) if v4 is not None]


def noai_word(robots: Iterable[str], user_agent: str) -> str | None:
    """The first directive of X-Robots-Tag headers that forbids us to keep the image.

    A header may name the robot that it is for, "otherbot: noai, nofollow"; we are the words of `user_agent`.
    """
    us = set(re.findall(r"[\w.-]+", user_agent.lower())) | {"*"}
    for header in robots:
        for_us = True
        for part in header.lower().split(","):
            name, colon, rest = (piece.strip() for piece in part.partition(":"))
            if colon and name not in _ROBOTS_VALUES:
                for_us = name in us
            if for_us and (word := rest if colon else name) in NO_AI:
                return word
    return None


def _parsed(url: str) -> Url:
    try:
        target = parse_url(url)
    except urllib3.exceptions.LocationParseError as error:
        raise Unfetchable("invalid_url", str(error)) from error
    if target.scheme is not None and target.scheme not in PORTS:
        raise Unfetchable("not_http", f"{target.scheme}:")
    if target.scheme is None or not target.host:
        raise Unfetchable("invalid_url", "no http:// or https://" if target.scheme is None else "no host")
    if target.port == 0:
        raise Unfetchable("invalid_url", f"{target.host}: port 0 cannot be connected to")
    return target


def _absolute(url: str, location: str) -> str:
    """The URL that a Location header means: relative to `url`, and UTF-8 where it is not ASCII."""
    try:
        return urljoin(url, location.encode("latin-1").decode("utf-8", "replace").strip())
    except ValueError as error:
        raise Unfetchable("invalid_url", f"redirected to {location!r}: {error}") from error


def _retry_after(header: str | None) -> float | None:
    """Seconds that a Retry-After header asks for; None where it is missing or nonsense."""
    if header is None:
        return None
    if header.strip().isascii() and header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return None


def _not_fetched(error: Exception, deadline: Deadline) -> NotFetched:
    detail = f"{type(error).__name__}: {error}"[:DETAIL_LENGTH]
    try:
        deadline.left()
    except TimeoutError as late:
        return NotFetched("timeout", str(late))
    if isinstance(error, (TimeoutError, urllib3.exceptions.TimeoutError)):
        return NotFetched("timeout", detail)
    if isinstance(error, (ssl.SSLError, urllib3.exceptions.SSLError)):
        return NotFetched("tls", detail)
    if isinstance(error, (http.client.RemoteDisconnected, OSError, urllib3.exceptions.ProtocolError)):
        return NotFetched("connection", detail)
    if isinstance(error, (MemoryError, RuntimeError)):  # "can't start new thread"
        return NotFetched("no_resources", detail)
    return NotFetched("bad_response", detail)


class _TimedSocket(socket.socket):
    """Reads no longer than until the deadline of the whole answer, however slowly bytes drip in."""

    deadline: Deadline

    def recv_into(self, *args: Any) -> int:
        self.settimeout(self.deadline.left())
        return super().recv_into(*args)


class _TimedTlsSocket(ssl.SSLSocket):
    """The same over TLS."""

    deadline: Deadline

    def recv_into(self, *args: Any) -> int:
        self.settimeout(self.deadline.left())
        return super().recv_into(*args)


class _FinalResponse(http.client.HTTPResponse):
    """The final response: http.client itself skips 100 Continue and takes other informational ones for the answer."""

    def begin(self) -> None:
        """Read the status line and headers of the final response.

        Raises:
            BadStatusLine: the server sent more than `MAX_INTERIM` informational responses.
        """
        for _ in range(MAX_INTERIM + 1):
            super().begin()
            if not 100 <= self.status < 200 or self.status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                return
            self.headers = self.msg = None  # type: ignore[assignment]  # else `begin` takes itself for done
        raise http.client.BadStatusLine(f"more than {MAX_INTERIM} informational responses, the last {self.status}")


class _Connection(HTTPConnection):
    """A connection to one of the addresses that were checked; the name stays in Host, SNI and certificate check."""

    response_class = _FinalResponse

    def __init__(self, host: str, port: int, addresses: Sequence[str], deadline: Deadline) -> None:
        super().__init__(host, port, timeout=deadline.left())
        self._addresses, self._deadline = addresses, deadline

    def _new_conn(self) -> socket.socket:
        return _connected(self._addresses, self.port, self._deadline)


class _TlsConnection(HTTPSConnection):
    """The same over TLS."""

    response_class = _FinalResponse

    def __init__(
        self, host: str, port: int, addresses: Sequence[str], deadline: Deadline, context: ssl.SSLContext
    ) -> None:
        super().__init__(host, port, timeout=deadline.left(), ssl_context=context)
        self._addresses, self._deadline = addresses, deadline

    def _new_conn(self) -> socket.socket:
        return _connected(self._addresses, self.port, self._deadline)

    def connect(self) -> None:
        super().connect()
        assert isinstance(self.sock, _TimedTlsSocket), "the context makes its sockets of this class"
        self.sock.deadline = self._deadline


def _connected(addresses: Sequence[str], port: int, deadline: Deadline) -> _TimedSocket:
    """A socket to the first address that answers; each gets its share of the time."""
    for tried, address in enumerate(addresses):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = _TimedSocket(family, socket.SOCK_STREAM)
        sock.deadline = deadline
        try:
            sock.settimeout(deadline.left() / (len(addresses) - tried))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect((address, port))
            sock.settimeout(deadline.left())  # also bounds the TLS handshake
            return sock
        except OSError:
            sock.close()
            if tried == len(addresses) - 1:
                raise
    raise Unfetchable("no_such_host", "no address")
