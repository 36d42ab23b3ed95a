"""HTTP connections to addresses that were checked before, under one deadline for the whole response."""

import http.client
import socket
import ssl
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from urllib3.connection import HTTPConnection, HTTPSConnection

from labeling.download.fetching.fetch_result import FetchError

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_INTERIM = 16
"""Informational responses (1xx) to skip per request; a server that sends more is broken or hostile."""


class Deadline:
    """Moment by which all steps of one fetch must be done."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def seconds_left(self) -> float:
        """Return the seconds until the deadline; never 0.

        Raises:
            TimeoutError: the deadline has passed.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError(f"not done within {self._seconds:g} s")
        return left


class _DeadlineSocket(socket.socket):
    """Socket whose reads end at the deadline of the whole response, however slowly bytes arrive."""

    deadline: Deadline

    def recv_into(self, buffer: "WriteableBuffer", nbytes: int = 0, flags: int = 0) -> int:
        """Read into `buffer` within the time left."""
        self.settimeout(self.deadline.seconds_left())
        return super().recv_into(buffer, nbytes, flags)


class DeadlineTlsSocket(ssl.SSLSocket):
    """The same over TLS; to be the `sslsocket_class` of a connection's SSL context."""

    deadline: Deadline

    def recv_into(self, buffer: "WriteableBuffer", nbytes: int | None = None, flags: int = 0) -> int:
        """Read into `buffer` within the time left."""
        self.settimeout(self.deadline.seconds_left())
        return super().recv_into(buffer, nbytes, flags)


class _FinalResponse(http.client.HTTPResponse):
    """Final response: http.client skips only 100 Continue and takes other informational responses for the final one."""

    def begin(self) -> None:
        """Read the status line and headers of the final response.

        Raises:
            BadStatusLine: the server sent more than `MAX_INTERIM` informational responses.
        """
        for _ in range(MAX_INTERIM + 1):
            super().begin()
            if not 100 <= self.status < 200 or self.status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                return
            # `begin` returns at once if headers are set. Its stub has no None, their value before the first call.
            self.headers = self.msg = None  # type: ignore[assignment]
        raise http.client.BadStatusLine(f"more than {MAX_INTERIM} informational responses, the last {self.status}")


class Connection(HTTPConnection):
    """Connection to one of the checked addresses; the header Host keeps the name."""

    response_class = _FinalResponse

    def __init__(self, host: str, port: int, addresses: Sequence[str], deadline: Deadline) -> None:
        super().__init__(host, port, timeout=deadline.seconds_left())
        self._addresses, self._deadline = addresses, deadline

    def _new_conn(self) -> socket.socket:
        return _connect(self._addresses, self.port, self._deadline)


class TlsConnection(HTTPSConnection):
    """The same over TLS; SNI and the check of the certificate keep the name too."""

    response_class = _FinalResponse

    def __init__(
        self, host: str, port: int, addresses: Sequence[str], deadline: Deadline, context: ssl.SSLContext
    ) -> None:
        super().__init__(host, port, timeout=deadline.seconds_left(), ssl_context=context)
        self._addresses, self._deadline = addresses, deadline

    def _new_conn(self) -> socket.socket:
        return _connect(self._addresses, self.port, self._deadline)

    def connect(self) -> None:
        """Connect, and set the deadline of the socket."""
        super().connect()
        assert isinstance(self.sock, DeadlineTlsSocket), "the context makes its sockets of this class"
        self.sock.deadline = self._deadline


def _connect(addresses: Sequence[str], port: int, deadline: Deadline) -> _DeadlineSocket:
    """Return a socket to the first address that accepts; the time left is divided among the addresses."""
    for tried, address in enumerate(addresses):
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = _DeadlineSocket(family, socket.SOCK_STREAM)
        sock.deadline = deadline
        try:
            sock.settimeout(deadline.seconds_left() / (len(addresses) - tried))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.connect((address, port))
            sock.settimeout(deadline.seconds_left())  # also limits the TLS handshake
            return sock
        except OSError:
            sock.close()
            if tried == len(addresses) - 1:
                raise
    raise FetchError("no_such_host", "no address")
