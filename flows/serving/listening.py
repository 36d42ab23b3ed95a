"""The socket of a server, and its URL."""

import socket

from infra.config import SettingsError


def listen(host: str, port: int) -> socket.socket:
    """Return a bound socket.

    Raises:
        SettingsError: host and port cannot be used.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family)
    except OSError as error:
        raise SettingsError(f"--host {host} --port {port} cannot be used ({error.strerror}): give others") from None


def url_of(host: str, port: int) -> str:
    """Return the URL of a server, with the name of this machine if it listens on all addresses."""
    name = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(host, host)
    return f"http://[{name}]:{port}/" if ":" in name else f"http://{name}:{port}/"
