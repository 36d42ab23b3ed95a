"""Addresses of a host, and which of them belong to the public internet."""

import ipaddress
import socket
from collections.abc import Callable, Sequence
from typing import TypeAlias

from labeling.download.fetching.fetch_result import FetchError

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_LOCAL_NETWORKS = tuple(map(ipaddress.ip_network, ("64:ff9b:1::/48", "fec0::/10", "::/96", "::ffff:0:0:0/96")))
"""Local networks that `is_global` does not know, and outdated ways to write IPv4 addresses that no server uses."""
_UNKNOWN_HOST = {getattr(socket, name) for name in ("EAI_NONAME", "EAI_NODATA") if hasattr(socket, name)}

Resolver: TypeAlias = Callable[[str, int], Sequence[str]]
"""Function from a host and a port to the addresses that may be connected to; raises `FetchError` without any."""


def any_addresses(host: str, port: int) -> list[str]:
    """Return all addresses of `host`, in the system's order.

    Raises:
        FetchError: it has none.
    """
    try:
        infos = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # a label of more than 63 characters
        raise FetchError("invalid_url", f"{host}: {error}") from error
    except socket.gaierror as error:
        reason = "no_such_host" if error.errno in _UNKNOWN_HOST else "dns"
        raise FetchError(reason, f"{host}: {error.strerror}") from error
    return [str(sockaddr[0]) for *_, sockaddr in infos]


def public_addresses(host: str, port: int) -> list[str]:
    """Return the addresses of `host` that belong to the public internet.

    Raises:
        FetchError: it has none.
    """
    addresses = any_addresses(host, port)
    if public := [address for address in addresses if is_public(address)]:
        return public
    raise FetchError(
        "private_address", f"{host} is {addresses[0]}; --set labeling.download.allow_private_hosts=true would fetch it"
    )


def is_public(address: str) -> bool:
    """Return whether an IP address, and any IPv4 address that it embeds, belongs to the public internet."""
    ip = ipaddress.ip_address(address)
    return all(
        each.is_global and not each.is_multicast and not any(each in network for network in _LOCAL_NETWORKS)
        for each in (ip, *_embedded_addresses(ip))
    )


def _embedded_addresses(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """Return the IPv4 addresses that gateways would extract from an IPv6 address."""
    if isinstance(ip, ipaddress.IPv4Address):
        return []
    nat64 = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF) if ip in _NAT64 else None
    return [v4 for v4 in (ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ()), nat64) if v4 is not None]
