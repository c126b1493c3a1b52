"""Where the page listens, and under which names it may be asked for."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
from dataclasses import dataclass

from edgeseg.errors import UsageError

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8080

UNREAD_TIMEOUT_MS = 10_000
"""The kernel gives up a viewer that has not taken sent bytes for so long: a phone that left the network."""


@dataclass(frozen=True)
class Address:
    """A host name or IP address, and a port; 0 lets the system choose one."""

    host: str = DEFAULT_HOST
    port: int = DEFAULT_PORT

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


LOOPBACK = Address()


def address_from_text(text: str) -> Address:
    """``HOST:PORT``, ``HOST``, ``:PORT``, ``PORT`` or ``[IPv6]:PORT``; what is left out takes its default.

    Raises:
        UsageError: it is none of these, or the port is above 65535.
    """
    found = re.fullmatch(
        r"(?P<port_alone>\d+)|(\[(?P<v6>[\dA-Fa-f:.]+)\]|(?P<host>[^\s:/\[\]]*))(:(?P<port>\d+))?", text
    )
    if found is None:
        raise UsageError(f"'{text}' is no address to serve at", "write HOST:PORT, such as 127.0.0.1:8080")
    host, port = found["v6"] or found["host"], found["port"] or found["port_alone"]
    address = Address(host or DEFAULT_HOST, int(port or DEFAULT_PORT))
    if address.port > 65535:
        raise UsageError(f"There is no port {address.port}", "use one from 1024 to 65535")
    return address


def listen(address: Address) -> socket.socket:
    """A listening socket at an address of this machine.

    Raises:
        UsageError: the port is taken, or the address is not this machine's.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, place = found[0]
        # On every IPv6 address means on every IPv4 address as well.
        both = family == socket.AF_INET6 and socket.has_dualstack_ipv6()
        listener = socket.create_server(place[:2], family=family, dualstack_ipv6=both)
    except OSError as error:
        raise _refused(address, error) from error
    # Accepted connections inherit both. Without the first a picture waits 40 ms for its head to be acknowledged.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_TIMEOUT_MS)
    return listener


def _refused(address: Address, error: OSError) -> UsageError:
    if error.errno == errno.EADDRINUSE:
        return UsageError(
            f"Port {address.port} of {address.host} is in use", "stop what listens there, or give --serve another port"
        )
    if error.errno == errno.EACCES:
        return UsageError(f"Port {address.port} needs administrator rights", "use one from 1024 to 65535")
    return UsageError(
        f"{address.host} is no address of this machine ({error.strerror})", "give one of its own, or 0.0.0.0 for all"
    )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an IP address."""
    return ipaddress.ip_address(host).is_loopback


def names_of_this_machine(address: Address) -> frozenset[str]:
    """Host names, in lower case, that a browser may rightly ask for; any IP address may be asked for as well."""
    name = socket.gethostname().lower()
    return frozenset({"localhost", address.host.lower(), name, f"{name}.local"})


def is_own_name(host_header: str, names: frozenset[str]) -> bool:
    """Whether the Host header of a request names this machine.

    A page elsewhere can point a name of its own at this address (DNS rebinding) and would then share an origin with
    ours. It cannot do so with an IP address.
    """
    found = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^:]+)(:\d+)?", host_header)
    if found is None:
        return False
    host = found[1].strip("[]").lower()
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return host in names
    return True


def address_seen_from_outside(listener: socket.socket) -> Address:
    """Where a browser finds the listener: for one on all addresses, that of the interface other machines are behind."""
    host, port = listener.getsockname()[:2]
    if not ipaddress.ip_address(host).is_unspecified:
        return Address(host, port)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address for documentation; connecting sends nothing
            return Address(probe.getsockname()[0], port)
        except OSError:
            return Address(socket.gethostname(), port)
