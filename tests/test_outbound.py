"""The way out: what may be spoken to, and that nothing else is, whatever names, redirects and proxies say."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from db.errors import WinnowError
from engine import outbound
from engine.outbound import MAX_BYTES, Answer, Line, Pinned, Unreachable, allowed_endpoints, endpoint_of, pin

PUBLIC = "93.184.216.34"
HEAD_OF_20 = b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"


class Listener:
    """A TCP listener on this machine that records every connection and answers each request in the same way."""

    def __init__(self, answer: Callable[[socket.socket], None], context: ssl.SSLContext | None = None) -> None:
        self.connections = 0
        self.requests: list[bytes] = []
        self._answer, self._context = answer, context
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            with client:
                try:
                    self._speak(client)
                except OSError:
                    continue  # the client hung up, or refused our certificate: what some tests are about

    def _speak(self, client: socket.socket) -> None:
        stream = self._context.wrap_socket(client, server_side=True) if self._context else client
        with stream:
            self.requests.append(_request(stream))
            self._answer(stream)

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(5)


def _request(stream: socket.socket) -> bytes:
    """The whole request, whose body is `{}`: to close with bytes unread would tear down the answer too."""
    read = b""
    while not read.endswith(b"\r\n\r\n{}"):
        more = stream.recv(65536)
        if not more:
            raise ConnectionError(f"the request broke off after {read!r}")
        read += more
    return read


@contextmanager
def listener(
    answer: bytes | Callable[[socket.socket], None] = OK, context: ssl.SSLContext | None = None
) -> Iterator[Listener]:
    opened = Listener(answer if callable(answer) else lambda client: client.sendall(answer), context)
    try:
        yield opened
    finally:
        opened.close()


def post(pinned: Pinned, *, timeout_s: float = 10.0) -> Answer:
    async def once() -> Answer:
        async with Line(pinned, timeout_s=timeout_s) as line:
            return await line.post("/chat", b"{}", {"Authorization": "Bearer secret"})

    return asyncio.run(once())


def names(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Replace the name service of the whole process: one answer per look-up, the last one for ever. Returns the names asked."""
    asked: list[str] = []

    def look_up(host: str, port: int, *_: object, **__: object) -> list[tuple]:
        asked.append(host)
        found = answers[min(len(asked), len(answers)) - 1]
        return [(socket.AF_INET6 if ":" in a else socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in found]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return asked


def routes(monkeypatch: pytest.MonkeyPatch, table: dict[str, int]) -> None:
    """Let public addresses be ports of this machine. Anything else that is not loopback cannot be reached."""
    connect = asyncio.SelectorEventLoop.sock_connect

    async def routed(loop: asyncio.SelectorEventLoop, sock: socket.socket, address: tuple) -> None:
        if address[0] in table:
            address = ("127.0.0.1", table[address[0]])
        elif not address[0].startswith("127."):
            raise ConnectionRefusedError(f"no route to {address[0]}")
        await connect(loop, sock, address)

    monkeypatch.setattr(asyncio.SelectorEventLoop, "sock_connect", routed)


def allowing(*urls: str) -> dict[str, str]:
    return {"WINNOW_ENDPOINTS": ",".join(urls)}


# What an endpoint is


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://api.example.com/v1", "https://api.example.com/v1"),
        ("https://api.example.com/v1/", "https://api.example.com/v1"),
        ("HTTPS://API.Example.COM:443", "https://api.example.com"),
        ("http://localhost:8000/v1", "http://localhost:8000/v1"),
        ("http://[::1]:11434/v1", "http://[::1]:11434/v1"),
        ("http://[0:0:0:0:0:0:0:1]", "http://[::1]"),
        ("https://xn--bcher-kva.example:8443", "https://xn--bcher-kva.example:8443"),
    ],
)
def test_a_base_url_is_brought_into_its_usual_form(url: str, shown: str) -> None:
    assert str(endpoint_of(url)) == shown


MALFORMED = [
    ("file:///etc/passwd", "scheme"),
    ("gopher://127.0.0.1:6379/_INFO", "scheme"),
    ("ftp://api.example.com", "scheme"),
    ("unix:///run/docker.sock", "scheme"),
    ("data:text/plain,hello", "scheme"),
    ("//api.example.com/v1", "scheme"),
    ("api.example.com/v1", "scheme"),
    ("", "ASCII"),
    ("http://", "no name"),
    ("http:///v1", "no name"),
    ("http://:8000/v1", "no name"),
    ("https://user:hunter2@api.example.com/v1", "credentials"),
    ("https://hunter2@api.example.com", "credentials"),
    ("https://api.example.com@127.0.0.1/v1", "credentials"),
    ("https://@api.example.com", "credentials"),
    ("https://api.example.com/v1?key=hunter2", "'\\?'"),
    ("https://api.example.com/v1#hunter2", "'\\?'"),
    ("https://api.example.com\\@127.0.0.1", "backslashes"),
    ("https://api.example.com/v1 ", "spaces"),
    ("https://api.exa\tmple.com", "spaces"),
    ("https://api.example.com\r\nX-Evil: 1", "spaces"),
    ("https://\x00localhost", "ASCII"),
    ("https://bücher.example", "ASCII"),
    ("http://①②⑦.⓪.⓪.①", "ASCII"),
    ("http://127。0。0。1", "ASCII"),
    ("https://api.example.com.", "no name"),
    ("https://api..example.com", "no name"),
    ("https://-api.example.com", "no name"),
    ("https://%6c%6f%63alhost", "no name"),
    ("https://" + "a" * 64 + ".example", "no name"),
    ("https://" + ".".join(["abcdefgh"] * 30), "no name"),
    ("http://2130706433", "no address"),
    ("http://0x7f000001", "no address"),
    ("http://017700000001", "no address"),
    ("http://0x7f.0x0.0x0.0x1", "no address"),
    ("http://0177.0.0.1", "no address"),
    ("http://127.1", "no address"),
    ("http://127.0.1", "no address"),
    ("http://127.0.0.01", "no address"),
    ("http://127.0.0.1.1", "no address"),
    ("http://999.0.0.1", "no address"),
    ("http://0", "no address"),
    ("http://1.2.3.4.", "no name"),
    ("http://[::1", "no URL|no address"),
    ("http://[zz::1]", "no address|no URL"),
    ("http://[fe80::1%25eth0]", "zone"),
    ("http://[fd00::1%eth0]", "zone"),
    ("http://api.example.com:0", "port"),
    ("http://api.example.com:65536", "port"),
    ("http://api.example.com:-1", "port"),
    ("http://api.example.com:http", "port"),
    ("http://api.example.com:80:80", "port"),
]


@pytest.mark.parametrize(("url", "why"), MALFORMED)
def test_a_malformed_or_disguised_url_is_refused_and_its_secrets_are_not_repeated(url: str, why: str) -> None:
    with pytest.raises(WinnowError, match=why) as caught:
        endpoint_of(url)
    assert "hunter2" not in str(caught.value)


def test_a_bad_entry_of_the_allow_list_names_the_variable() -> None:
    with pytest.raises(WinnowError, match=r"WINNOW_ENDPOINTS.*credentials") as caught:
        allowed_endpoints(allowing("https://a.example", "https://me:hunter2@b.example"))
    assert "hunter2" not in str(caught.value)


def test_the_allow_list_is_separated_by_commas_and_may_be_empty() -> None:
    listed = allowed_endpoints(allowing("https://a.example/v1", " http://127.0.0.1:8000 ", ""))
    assert list(map(str, listed)) == ["https://a.example/v1", "http://127.0.0.1:8000"]
    assert allowed_endpoints({}) == ()


# What may be spoken to


@pytest.mark.parametrize(
    "url",
    [
        "https://b.example/v1",
        "http://a.example/v1",
        "https://a.example:444/v1",
        "https://a.example.evil.example/v1",
        "https://sub.a.example/v1",
        f"https://{PUBLIC}/v1",
        "http://127.0.0.1",
        "http://localhost",
    ],
)
def test_another_origin_than_the_allowed_is_refused_before_it_is_looked_up(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = names(monkeypatch, [PUBLIC])
    with pytest.raises(WinnowError, match=r"not an allowed endpoint.*https://a\.example.*WINNOW_ENDPOINTS"):
        pin(url, allowing("https://a.example/v1"))
    assert asked == []


def test_without_an_allow_list_nothing_is_allowed() -> None:
    with pytest.raises(WinnowError, match="None is allowed so far"):
        pin("https://api.example.com", {})


NEVER = [
    "169.254.169.254",
    "169.254.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "100.100.100.200",
    "168.63.129.16",
    "192.0.0.192",
    "::",
    "fe80::1",
    "febf::1",
    "ff02::1",
    "fd00:ec2::254",
    "::ffff:169.254.169.254",
    "::ffff:0.0.0.0",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::7f00:1",
    "2002:a9fe:a9fe::1",
    "::127.0.0.1",
]
PRIVATE = [
    "127.0.0.1",
    "127.9.9.9",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "0.0.0.1",
    "192.0.2.1",
    "198.18.0.1",
    "::1",
    "fd12:3456::1",
    "fec0::1",
    "::ffff:127.0.0.1",
    "::ffff:10.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::1",
    "2001:0:7f00:1::1",
]


def _url(address: str) -> str:
    return f"http://[{address}]:8000" if ":" in address else f"http://{address}:8000"


@pytest.mark.parametrize("address", NEVER)
def test_some_addresses_are_never_spoken_to_even_when_the_administrator_names_them(address: str) -> None:
    with pytest.raises(WinnowError, match="never spoken to"):
        pin(_url(address), allowing(_url(address)))


@pytest.mark.parametrize("address", NEVER + PRIVATE)
def test_an_allowed_name_may_not_stand_for_an_inner_address(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, [PUBLIC, address])  # one bad address among good ones spoils the name
    with pytest.raises(WinnowError, match=r"https://a\.example stands for"):
        pin("https://a.example", allowing("https://a.example"))


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_are_allowed_when_the_list_names_them(address: str) -> None:
    pinned = pin(_url(address), allowing(_url(address)))
    assert pinned.addresses == (pinned.endpoint.host,)


@pytest.mark.parametrize("address", [PUBLIC, "2606:2800:220:1:248:1893:25c8:1946", "64:ff9b::5db8:d822"])
def test_public_addresses_of_an_allowed_name_are_kept(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, [address])
    assert pin("https://a.example/v1", allowing("https://a.example")).addresses == (address,)


def test_localhost_must_be_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, ["::1", "127.0.0.1"], ["10.0.0.1"], [PUBLIC])
    allowed = allowing("http://localhost:8000")
    assert pin("http://localhost:8000/v1", allowed).addresses == ("::1", "127.0.0.1")
    for _ in range(2):
        with pytest.raises(WinnowError, match="not this machine"):
            pin("http://localhost:8000/v1", allowed)


def test_a_name_that_cannot_be_looked_up_is_an_error_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(WinnowError, match=r"'a\.example'.*could not be looked up"):
        pin("https://a.example", allowing("https://a.example"))


# Speaking


def test_a_post_goes_below_the_base_url_with_the_name_in_the_host_header(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, [PUBLIC])
    with listener() as server:
        routes(monkeypatch, {PUBLIC: server.port})
        answer = post(pin("http://a.example:8080/v1/", allowing("http://a.example:8080")))
    assert (answer.status, answer.body) == (200, b"hi")
    head = server.requests[0].decode().lower()
    assert head.startswith("post /v1/chat http/1.1\r\n")
    assert "\r\nhost: a.example:8080\r\n" in head
    assert "\r\naccept-encoding: identity\r\n" in head
    assert "cookie" not in head


def test_a_name_that_changes_its_address_afterwards_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    with listener() as outer, listener() as inner:
        asked = names(monkeypatch, [PUBLIC], ["127.0.0.1"])
        routes(monkeypatch, {PUBLIC: outer.port})
        url = f"http://a.example:{inner.port}"
        pinned = pin(url, allowing(url))
        assert [post(pinned).status for _ in range(3)] == [200, 200, 200]
        assert (asked, outer.connections, inner.connections) == (["a.example"], 3, 0)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_answers_and_nothing_reaches_where_they_point(status: int) -> None:
    with listener() as inner:
        location = f"Location: http://127.0.0.1:{inner.port}/latest/meta-data\r\n"
        with listener(f"HTTP/1.1 {status} Moved\r\n{location}Content-Length: 0\r\n\r\n".encode()) as server:
            url = f"http://127.0.0.1:{server.port}"
            assert post(pin(url, allowing(url))).status == status
        assert inner.connections == 0


def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, [PUBLIC])
    with listener() as server, listener() as proxy:
        for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
        routes(monkeypatch, {PUBLIC: server.port})
        assert post(pin("http://a.example", allowing("http://a.example"))).status == 200
        assert proxy.connections == 0


def test_an_address_that_refuses_connections_gives_way_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    names(monkeypatch, ["8.8.4.4", PUBLIC])
    with listener() as server:
        routes(monkeypatch, {PUBLIC: server.port})
        assert post(pin("http://a.example", allowing("http://a.example"))).status == 200


def test_nobody_there_is_an_error_that_may_pass() -> None:
    with listener() as server:
        url = f"http://127.0.0.1:{server.port}"
    with pytest.raises(Unreachable, match="cannot be reached"):
        post(pin(url, allowing(url)))


def test_a_broken_off_answer_is_an_error_that_may_pass_and_is_not_shown() -> None:
    with listener(b"garbage with a secret\r\n\r\n") as server:
        url = f"http://127.0.0.1:{server.port}"
        with pytest.raises(Unreachable, match="broke off") as caught:
            post(pin(url, allowing(url)))
    assert "secret" not in str(caught.value)


def test_an_endless_answer_is_cut() -> None:
    body = b"x" * (2 * MAX_BYTES)
    with listener(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)) as server:
        url = f"http://127.0.0.1:{server.port}"
        with pytest.raises(WinnowError, match=f"more than {MAX_BYTES} bytes"):
            post(pin(url, allowing(url)))


def test_an_answer_of_just_the_allowed_size_is_read() -> None:
    body = b"x" * MAX_BYTES
    with listener(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)) as server:
        url = f"http://127.0.0.1:{server.port}"
        assert post(pin(url, allowing(url))).body == body


def test_a_compressed_answer_is_refused() -> None:
    with listener(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nhi") as server:
        url = f"http://127.0.0.1:{server.port}"
        with pytest.raises(WinnowError, match="compressed"):
            post(pin(url, allowing(url)))


@pytest.mark.parametrize("slow", ["head", "body"])
def test_an_answer_in_drops_ends_at_the_time_for_the_whole(slow: str) -> None:
    """Each drop comes well within the time; only the sum is too much. Without a limit the answer would arrive whole."""

    def drip(client: socket.socket) -> None:
        at_once, drops = (HEAD_OF_20, b"x" * 20) if slow == "body" else (b"", HEAD_OF_20 + b"x" * 20)
        client.sendall(at_once)
        for drop in drops:
            client.sendall(bytes([drop]))
            time.sleep(0.04)

    with listener(drip) as server:
        url = f"http://127.0.0.1:{server.port}"
        with pytest.raises(Unreachable, match=r"did not answer within 0\.3 s"):
            post(pin(url, allowing(url)), timeout_s=0.3)


# TLS


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A fresh self-signed certificate with its key, for a.example only."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    path = tmp_path / "certificate.pem"
    arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=a.example"
    subprocess.run(
        ["openssl", *arguments.split(), "-addext", "subjectAltName=DNS:a.example", "-out", path, "-keyout", path],
        check=True,
        capture_output=True,
    )
    return path


@pytest.mark.parametrize(("host", "trusted"), [("a.example", True), ("b.example", False)])
def test_tls_checks_the_name_though_the_connection_goes_to_an_address(
    host: str, trusted: bool, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, said = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), []
    context.load_cert_chain(certificate)
    context.sni_callback = lambda _, name, __: said.append(name)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    names(monkeypatch, [PUBLIC])
    with listener(context=context) as server:
        routes(monkeypatch, {PUBLIC: server.port})
        pinned = pin(f"https://{host}", allowing(f"https://{host}"))
        if trusted:
            assert post(pinned).status == 200
        else:
            with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
                post(pinned)
            assert server.requests == []  # not a byte, and no key, before the certificate is checked
    assert said == [host]


def test_the_tables_are_as_long_as_they_were_meant_to_be() -> None:
    assert len(MALFORMED) + len(NEVER) + len(PRIVATE) >= 60
    assert outbound.VARIABLE == "WINNOW_ENDPOINTS"
