"""The only way out to an endpoint: an address that the administrator allowed, looked up once and then connected to by IP.

The rules against being lured into an inner network (server-side request forgery): the origin must be in WINNOW_ENDPOINTS;
every address that its name stands for is judged before the first byte is sent, and the name is never looked up again;
redirects, cookies and proxies of the environment do not exist here; answers are bounded in size and time.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from types import TracebackType
from typing import Literal, Self
from urllib.parse import SplitResult, urlsplit

import httpx

from db.errors import WinnowError
from db.records import Record

VARIABLE = "WINNOW_ENDPOINTS"
MAX_BYTES = 1 << 20

IPAddress = IPv4Address | IPv6Address

# Where clouds hand out the machine's own credentials, other than at link-local addresses.
_METADATA = frozenset(map(ip_address, ("100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254")))
_NAT64 = IPv6Network("64:ff9b::/96")
_PORTS = {"http": 80, "https": 443}
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMERIC = re.compile(r"0x[0-9a-f]*|[0-9]+")


class Unreachable(WinnowError):
    """No answer came: no connection, or too late, or broken off. Trying again may help."""


class Endpoint(Record, frozen=True, kw_only=True):
    """A checked base URL. `host` is a lower-case name or an address in its usual form; `path` has no slash at the end."""

    scheme: Literal["http", "https"]
    host: str
    port: int
    path: str = ""

    @property
    def authority(self) -> str:
        """As in the Host header: the port only where it is not the scheme's own."""
        host = _bracketed(self.host)
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def origin(self) -> str:
        return f"{self.scheme}://{self.authority}"

    @property
    def address(self) -> IPAddress | None:
        """The address that the host is written as, None for a name."""
        return ip_address(self.host) if ":" in self.host or _numeric(self.host) else None

    def __str__(self) -> str:
        return self.origin + self.path


class Pinned(Record, frozen=True, kw_only=True):
    """An allowed endpoint with the addresses that its name stood for when it was looked up, all of them judged."""

    endpoint: Endpoint
    addresses: tuple[str, ...]


class Answer(Record, frozen=True, kw_only=True):
    """What came back. Names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes


def endpoint_of(url: str) -> Endpoint:
    """The parts of a base URL. Raises WinnowError for anything but a plain http or https URL; never repeats a password."""
    parts = _split(url)
    if parts.scheme not in _PORTS:
        raise WinnowError(f"{_shown(url)} is no endpoint: its scheme is {parts.scheme!r}; it must be http or https.")
    if "@" in parts.netloc:
        raise WinnowError(
            f"The URL of the endpoint {_shown(url)} carries credentials; take them out. Keys come from the environment."
        )
    if "?" in url or "#" in url:
        raise WinnowError(f"The base URL {_shown(url)} must end with its path: no '?' and no '#'.")
    port = _port(parts, url)
    scheme: Literal["http", "https"] = "https" if parts.scheme == "https" else "http"
    return Endpoint(scheme=scheme, host=_host(parts, url), port=port, path=parts.path.rstrip("/"))


def allowed_endpoints(environment: Mapping[str, str] = os.environ) -> tuple[Endpoint, ...]:
    """What the administrator allows: the base URLs in WINNOW_ENDPOINTS, separated by commas. Raises WinnowError for a bad one."""
    listed = (entry.strip() for entry in environment.get(VARIABLE, "").split(","))
    try:
        return tuple(endpoint_of(entry) for entry in listed if entry)
    except WinnowError as error:
        raise WinnowError(f"{VARIABLE} has a bad entry. {error}") from error


def resolve(host: str, port: int) -> list[str]:
    """Every address that the name stands for. Raises WinnowError when there is none."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise WinnowError(f"The name {host!r} of the endpoint could not be looked up: {error}.") from error
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def pin(base_url: str, environment: Mapping[str, str] = os.environ) -> Pinned:
    """The endpoint of an allowed base URL, looked up once. Raises WinnowError when it must not be spoken to, and why."""
    endpoint = endpoint_of(base_url)
    allowed = sorted({entry.origin for entry in allowed_endpoints(environment)})
    if endpoint.origin not in allowed:
        listed = f"Allowed: {', '.join(allowed)}." if allowed else "None is allowed so far."
        raise WinnowError(
            f"{endpoint.origin} is not an allowed endpoint. {listed} The administrator names them in {VARIABLE}."
        )
    addresses = (endpoint.host,) if endpoint.address else tuple(resolve(endpoint.host, endpoint.port))
    for address in addresses:
        _judge(endpoint, ip_address(address))
    return Pinned(endpoint=endpoint, addresses=addresses)


class Line:
    """Connections to one pinned endpoint: `async with line`, then `post`. May be opened again, but not twice at a time."""

    def __init__(self, pinned: Pinned, *, timeout_s: float, connections: int = 1) -> None:
        """`timeout_s` is for a whole exchange, from the connecting to the last byte."""
        self._endpoint, self._addresses, self._timeout_s = pinned.endpoint, pinned.addresses, timeout_s
        self._limits = httpx.Limits(max_connections=connections, max_keepalive_connections=connections)
        self._trust = _trust(pinned.endpoint)

    async def __aenter__(self) -> Self:
        # A bare transport: a client would add redirects, cookies and proxies.
        self._transport = httpx.AsyncHTTPTransport(verify=self._trust, trust_env=False, limits=self._limits)
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.__aexit__(kind, error, trace)

    async def post(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """The answer to a POST at `path` below the base URL, whatever its status.

        Raises Unreachable when none came within the time, WinnowError for one that is too big or compressed.
        """
        host = self._endpoint.authority
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._post_anywhere(path, body, headers)
        except (TimeoutError, httpx.TimeoutException) as error:
            raise Unreachable(f"{host} did not answer within {self._timeout_s:g} s.") from error
        except httpx.ConnectError as error:
            raise Unreachable(f"{host} cannot be reached ({error}). Is it running, and is the port right?") from error
        except httpx.TransportError as error:
            raise Unreachable(f"{host} broke off the exchange ({type(error).__name__}).") from error

    async def _post_anywhere(self, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        """At the first address that lets itself be connected to. One that does not is asked last from then on."""
        *others, last = self._addresses
        for address in others:
            try:
                return await self._post_to(address, path, body, headers)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                self._addresses = (*(other for other in self._addresses if other != address), address)
        return await self._post_to(last, path, body, headers)

    async def _post_to(self, address: str, path: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        endpoint = self._endpoint
        request = httpx.Request(
            "POST",
            f"{endpoint.scheme}://{_bracketed(address)}:{endpoint.port}{endpoint.path}{path}",
            content=body,
            headers={**headers, "Host": endpoint.authority, "Accept-Encoding": "identity"},
            extensions={
                "timeout": {"connect": self._timeout_s / len(self._addresses)},  # the rest: one time for all of it
                "sni_hostname": endpoint.host,  # TLS checks the name, though the connection goes to an address
            },
        )
        response = await self._transport.handle_async_request(request)
        try:
            return Answer(
                status=response.status_code, headers=dict(response.headers), body=await self._bounded(response)
            )
        finally:
            await response.aclose()

    async def _bounded(self, response: httpx.Response) -> bytes:
        # A small answer may unpack to a huge one.
        if response.headers.get("content-encoding", "identity") != "identity":
            raise WinnowError(f"{self._endpoint.authority} compressed its answer although it was told not to.")
        body = bytearray()
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > MAX_BYTES:
                raise WinnowError(
                    f"{self._endpoint.authority} sent more than {MAX_BYTES} bytes; the rest was not read. "
                    "Is this a chat endpoint?"
                )
        return bytes(body)


def _trust(endpoint: Endpoint) -> ssl.SSLContext:
    """The usual authorities, or those of SSL_CERT_FILE and SSL_CERT_DIR. They take a while to load: nobody without need."""
    return httpx.create_ssl_context() if endpoint.scheme == "https" else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _split(url: str) -> SplitResult:
    if not re.fullmatch(r"[!-\[\]-~]+", url):  # the parser would drop control characters in silence
        raise WinnowError(
            f"{_shown(url)} is no endpoint: write it in ASCII without spaces and backslashes (a name in another "
            "script in its xn-- form)."
        )
    try:
        return urlsplit(url)
    except ValueError as error:
        raise WinnowError(f"{_shown(url)} is no URL: {error}.") from None


def _port(parts: SplitResult, url: str) -> int:
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        raise WinnowError(f"The port of {_shown(url)} must be a number from 1 to 65535.")
    return port or _PORTS[parts.scheme]


def _host(parts: SplitResult, url: str) -> str:
    """A lower-case name or an address in its usual form. Disguised addresses (0x7f.1, 2130706433) are refused."""
    host = parts.hostname or ""
    if ":" in host or _numeric(host):
        try:
            address = ip_address(host)
        except ValueError:
            raise WinnowError(
                f"The host of {_shown(url)} is no address: write four decimal numbers, or IPv6 in brackets."
            ) from None
        if "%" in host:
            raise WinnowError(f"The host of {_shown(url)} has a zone ('%...'); write the address without it.")
        return str(address)
    if len(host) > 253 or not all(map(_LABEL.fullmatch, host.split("."))):
        raise WinnowError(f"The host of {_shown(url)} is no name: letters, digits and '-', in parts joined by dots.")
    return host


def _numeric(host: str) -> bool:
    return _NUMERIC.fullmatch(host.rpartition(".")[2]) is not None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _shown(url: str) -> str:
    """What of a URL may stand in a message: nothing that could be a password or a token."""
    return repr(re.split("[?#]", url.rpartition("@")[2])[0][:120])


def _judge(endpoint: Endpoint, address: IPAddress) -> None:
    """Raises WinnowError when the endpoint must not be connected to at this address."""
    inner = _unwrapped(address)
    what = _never(inner)
    if what:
        raise WinnowError(f"{endpoint.origin} stands for {address}, {what}; such addresses are never spoken to.")
    if endpoint.host == "localhost":
        if not inner.is_loopback:
            raise WinnowError(f"localhost stands for {address} here, which is not this machine. Mend its name service.")
    elif _local(inner) and endpoint.address is None:
        raise WinnowError(
            f"{endpoint.origin} stands for {address}, an address of this machine or of a private network. "
            f"If that is meant, the administrator must name the address itself in {VARIABLE}: "
            f"{endpoint.scheme}://{_bracketed(str(inner))}:{endpoint.port}."
        )


def _never(address: IPAddress) -> str:
    """What is wrong with an address that is never spoken to, "" for others."""
    if address.is_link_local or address in _METADATA:
        return "a link-local address or one where clouds keep a machine's credentials"
    if address.is_multicast:
        return "a multicast address"
    if address.is_unspecified:
        return "the unspecified address"
    return "a reserved address" if address.is_reserved and not address.is_loopback else ""


def _local(address: IPAddress) -> bool:
    return not address.is_global or (isinstance(address, IPv6Address) and address.is_site_local)


def _unwrapped(address: IPAddress) -> IPAddress:
    """The IPv4 address that an IPv6 one carries (mapped, 6to4, NAT64), for judging; else the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
