"""The guarded fetch, against real servers on loopback."""

import datetime
import gzip
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from labeling.config import DownloadConfig
from labeling.download.fetching.addresses import public_addresses
from labeling.download.fetching.fetch import Fetcher, noai_word
from labeling.download.fetching.fetch_result import (
    FetchedBody,
    FetchFailure,
    FetchResult,
    is_host_failure,
    is_retryable,
)
from tests.processes import PATIENCE_S
from tests.web import Page, Site, page, redirect, serving

OPEN = DownloadConfig(allow_private_hosts=True, timeout_s=PATIENCE_S)
GUARDED = DownloadConfig(timeout_s=PATIENCE_S)


@pytest.fixture
def site() -> Iterator[Site]:
    with serving({"/a": page(b"picture")}) as site:
        yield site


def reason_of(answer: FetchResult) -> str:
    assert isinstance(answer, FetchFailure), answer
    return answer.reason


def test_a_good_response_gives_its_body(site: Site) -> None:
    assert Fetcher(OPEN).fetch(site.url("/a")) == FetchedBody(b"picture")
    assert site.seen[0]["User-Agent"] == OPEN.user_agent
    assert site.seen[0]["Host"] == f"127.0.0.1:{site.port}"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("ftp://example.com/a.jpg", "not_http"),
        ("file:///etc/passwd", "not_http"),
        ("data:image/png;base64,AAAA", "not_http"),
        ("", "invalid_url"),
        ("example.com/a.jpg", "invalid_url"),
        ("//example.com/a.jpg", "invalid_url"),
        ("http://", "invalid_url"),
        ("http://[::1/a.jpg", "invalid_url"),
        ("http://exa mple.com/a.jpg", "invalid_url"),
        ("http://example.com:99999/a.jpg", "invalid_url"),
        (f"http://{'a' * 70}.invalid/", "invalid_url"),
        ("http://127.0.0.1/a.jpg", "private_address"),
        ("http://localhost:8080/a.jpg", "private_address"),
        ("http://2130706433/a.jpg", "private_address"),
        ("http://127.1/a.jpg", "private_address"),
        ("http://0/a.jpg", "private_address"),
        ("http://[::1]/a.jpg", "private_address"),
        ("http://[::ffff:127.0.0.1]/a.jpg", "private_address"),
        ("http://10.0.0.1/a.jpg", "private_address"),
        ("http://169.254.169.254/latest/meta-data", "private_address"),
        ("https://192.168.1.1/a.jpg", "private_address"),
    ],
)
def test_urls_that_must_not_be_fetched(url: str, reason: str) -> None:
    assert reason_of(Fetcher(GUARDED).fetch(url)) == reason


def test_every_redirect_is_checked(site: Site) -> None:
    """Only the first host is let through, as if it were a public one that redirects inwards."""

    def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"] if host == "first.example" else public_addresses(host, port)

    site.pages["/in"] = redirect(site.url("/a"))
    fetcher = Fetcher(GUARDED, resolve)
    assert fetcher.fetch(site.url("/a", "first.example")) == FetchedBody(b"picture")
    answer = fetcher.fetch(site.url("/in", "first.example"))
    assert reason_of(answer) == "private_address"
    assert site.hits["/a"] == 1


def test_it_connects_to_the_address_that_was_checked(site: Site) -> None:
    """A name that resolves to another address at the next look-up (DNS rebinding) gains nothing."""
    looked_up = []

    def resolve(host: str, port: int) -> list[str]:
        looked_up.append(host)
        return ["127.0.0.1"]

    assert Fetcher(GUARDED, resolve).fetch(site.url("/a", "no-such-name.invalid")) == FetchedBody(b"picture")
    assert looked_up == ["no-such-name.invalid"]
    assert site.seen[0]["Host"] == f"no-such-name.invalid:{site.port}"


def test_a_dead_address_does_not_hide_a_live_one(site: Site) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.2", 0))  # bound, not listening: refuses
        answer = Fetcher(GUARDED, lambda host, port: ["127.0.0.2", "127.0.0.1"]).fetch(site.url("/a", "two.example"))
    assert answer == FetchedBody(b"picture")


def test_redirects(site: Site) -> None:
    site.pages |= {
        "/relative": redirect("a"),
        "/other": redirect("/relative", 308),
        "/utf8": redirect("/%C3%A9"),
        "/raw-utf8": redirect("/é".encode().decode("latin-1")),
        "/%C3%A9": page(b"accent"),
        "/loop": redirect("/loop2"),
        "/loop2": redirect("/loop"),
        "/self": redirect("/self"),
        "/ftp": redirect("ftp://example.com/a"),
        "/bad": redirect("http://[::1/"),
        "/nowhere": page(status=302),
    } | {f"/chain{i}": redirect(f"/chain{i + 1}") for i in range(9)}
    fetch = Fetcher(OPEN).fetch
    assert fetch(site.url("/other")) == FetchedBody(b"picture")
    assert fetch(site.url("/raw-utf8")) == fetch(site.url("/utf8")) == FetchedBody(b"accent")
    reasons = {path: reason_of(fetch(site.url(path))) for path in ("/loop", "/self", "/ftp", "/bad", "/nowhere")}
    assert reasons == {
        "/loop": "redirect_loop",
        "/self": "redirect_loop",
        "/ftp": "not_http",
        "/bad": "invalid_url",
        "/nowhere": "http_302",
    }
    assert reason_of(fetch(site.url("/chain0"))) == "too_many_redirects"
    assert site.hits["/chain5"] == 1, "five redirects are followed"
    assert site.hits["/chain6"] == 0


def test_a_failure_after_a_redirect_does_not_count_for_the_url_s_own_host(site: Site) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        port = closed.getsockname()[1]
        site.pages |= {
            "/other": redirect(f"http://localhost:{port}/a"),
            "/same": redirect(f"http://127.0.0.1:{port}/a"),
        }
        answers = [Fetcher(OPEN).fetch(site.url(path)) for path in ("/other", "/same")]
    assert [(reason_of(answer), is_host_failure(answer)) for answer in answers] == [
        ("connection", False),
        ("connection", True),
    ]


def test_which_statuses_are_retryable(site: Site) -> None:
    site.pages |= {f"/{status}": page(status=status) for status in (403, 404, 408, 410, 429, 500, 503)}
    reasons = [reason_of(Fetcher(OPEN).fetch(site.url(f"/{s}"))) for s in (403, 404, 408, 410, 429, 500, 503)]
    assert reasons == ["http_403", "http_404", "http_408", "http_410", "http_429", "http_500", "http_503"]
    assert [is_retryable(reason) for reason in reasons] == [False, False, True, False, True, True, True]
    assert all(map(is_retryable, ("timeout", "connection", "dns")))
    assert not any(map(is_retryable, ("tls", "no_such_host", "noai", "too_large", "private_address", "bad_response")))


def test_retry_after_is_parsed(site: Site) -> None:
    at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=1)
    site.pages |= {
        "/seconds": page(status=429, headers={"Retry-After": "7"}),
        "/date": page(status=503, headers={"Retry-After": at.strftime("%a, %d %b %Y %H:%M:%S GMT")}),
        "/junk": page(status=503, headers={"Retry-After": "soon"}),
        "/square": page(status=503, headers={"Retry-After": "\xb2"}),
    }
    answers = [Fetcher(OPEN).fetch(site.url(path)) for path in site.pages if path != "/a"]
    assert [reason_of(answer) for answer in answers] == ["http_429", "http_503", "http_503", "http_503"]
    seconds, date, junk, square = (a.retry_after_s for a in answers if isinstance(a, FetchFailure))
    assert seconds == 7
    assert date is not None
    assert 3500 < date <= 3600
    assert junk is None
    assert square is None, "a digit to str.isdigit and no number"


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_a_lack_of_threads_or_memory_is_retryable(error: Exception) -> None:
    def resolve(host: str, port: int) -> list[str]:
        raise error

    reason = reason_of(Fetcher(OPEN, resolve).fetch("http://example.com/a.jpg"))
    assert reason == "no_resources"
    assert is_retryable(reason)


def drip(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b"x")
        time.sleep(0.05)


def drip_headers(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    while True:
        handler.wfile.write(b"x")
        time.sleep(0.05)


def never(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(30)


def wander(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(0.1)
    redirect(f"/{time.monotonic_ns()}")(handler)


@pytest.mark.parametrize("way", [drip, drip_headers, never, wander])
def test_one_deadline_for_the_whole_response(site: Site, way: Page) -> None:
    """Each byte, and each hop, comes in time; the whole does not. Without the deadline this never ends."""
    site.pages["*"] = way
    config = OPEN.model_copy(update={"timeout_s": 0.4, "max_redirects": 1000})
    assert reason_of(Fetcher(config).fetch(site.url("/start"))) == "timeout"


def test_the_deadline_covers_name_resolution() -> None:
    """Without it this never ends."""
    config = OPEN.model_copy(update={"timeout_s": 0.2})
    fetched = threading.Event()

    def resolve(host: str, port: int) -> list[str]:
        fetched.wait()
        return ["127.0.0.1"]

    assert reason_of(Fetcher(config, resolve).fetch("http://slow-dns.example/a")) == "timeout"
    fetched.set()


def test_dead_hosts() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, not listening: refuses
        answer = Fetcher(OPEN).fetch(f"http://127.0.0.1:{closed.getsockname()[1]}/a")
    assert reason_of(answer) == "connection"
    assert reason_of(Fetcher(OPEN).fetch("http://no-such-name.invalid/a")) in {"no_such_host", "dns"}


def with_early_hints(final: Page, times: int = 1, status: int = 103) -> Page:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        for _ in range(times):
            handler.wfile.write(f"HTTP/1.1 {status} Interim\r\nLink: </style.css>; rel=preload\r\n\r\n".encode())
        final(handler)

    return answer


def test_informational_responses_are_skipped(site: Site) -> None:
    site.pages |= {
        "/hints": with_early_hints(page(b"picture")),
        "/processing": with_early_hints(page(b"picture"), times=3, status=102),
        "/moved": with_early_hints(redirect("/hints")),
        "/gone": with_early_hints(page(status=404)),
        "/upgrade": with_early_hints(page(b"picture"), status=101),
        "/endless": with_early_hints(page(b"picture"), times=1000),
    }
    fetch = Fetcher(OPEN).fetch
    assert [fetch(site.url(path)) for path in ("/hints", "/processing", "/moved")] == [FetchedBody(b"picture")] * 3
    assert reason_of(fetch(site.url("/gone"))) == "http_404"
    assert reason_of(fetch(site.url("/upgrade"))) == "http_101", "what follows is no longer HTTP"
    assert reason_of(fetch(site.url("/endless"))) == "bad_response"


def test_port_0_is_not_the_default_port(site: Site) -> None:
    site.pages["/to-0"] = redirect("http://127.0.0.1:0/a")
    for url in ("http://127.0.0.1:0/a", "https://127.0.0.1:0/a", site.url("/to-0")):
        assert Fetcher(OPEN).fetch(url) == FetchFailure("invalid_url", "127.0.0.1: port 0 cannot be connected to")


def junk(handler: BaseHTTPRequestHandler) -> None:
    handler.wfile.write(b"not http at all\r\n\r\n")


def test_incomplete_responses(site: Site) -> None:
    site.pages |= {
        "/short": page(b"half", headers={"Content-Length": "8"}),
        "/hang-up": lambda handler: None,
        "/junk": junk,
        "/bad-gzip": page(b"no gzip", headers={"Content-Encoding": "gzip"}),
    }
    reasons = {path: reason_of(Fetcher(OPEN).fetch(site.url(path))) for path in list(site.pages)[1:]}
    assert reasons == {
        "/short": "connection",
        "/hang-up": "connection",
        "/junk": "bad_response",
        "/bad-gzip": "bad_response",
    }


def test_too_large_declared_streamed_or_unpacked(site: Site) -> None:
    sent = []

    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for _ in range(1000):
            handler.wfile.write(bytes(10_000))
            sent.append(10_000)

    site.pages |= {
        "/fits": page(bytes(100_000)),
        "/declared": page(bytes(100_001)),
        "/endless": endless,
        "/bomb": page(gzip.compress(bytes(50_000_000)), headers={"Content-Encoding": "gzip"}),
    }
    config = OPEN.model_copy(update={"max_bytes": 100_000})
    assert Fetcher(config).fetch(site.url("/fits")) == FetchedBody(bytes(100_000))
    assert [reason_of(Fetcher(config).fetch(site.url(p))) for p in ("/declared", "/endless", "/bomb")] == [
        "too_large"
    ] * 3


@pytest.mark.parametrize(
    ("header", "word"),
    [
        ("noai", "noai"),
        ("NoImageAI", "noimageai"),
        ("nofollow, noindex", "noindex"),
        ("noimageindex", "noimageindex"),
        ("nofollow", None),
        ("otherbot: noai, noindex", None),
        ("img2dataset: noai", "noai"),
        ("Subject-Diffusion: noindex", "noindex"),
        ("otherbot: nofollow, img2dataset: noai", "noai"),
        ("otherbot: nofollow, noai", None),
        ("*: noai", "noai"),
        ("max-image-preview: large, noai", "noai"),
        ("unavailable_after: 25 Jun 2030 15:00:00 PST, noindex", "noindex"),
        ("noarchive", None),
        ("", None),
    ],
)
def test_what_robots_headers_forbid(header: str, word: str | None) -> None:
    assert noai_word([header], "subject-diffusion (img2dataset)") == word
    assert noai_word(["nofollow", header], "subject-diffusion (img2dataset)") == word


def test_noai_is_respected(site: Site) -> None:
    site.pages["/mine"] = page(b"mine", headers={"X-Robots-Tag": "noai"})
    assert reason_of(Fetcher(OPEN).fetch(site.url("/mine"))) == "noai"
    anyway = OPEN.model_copy(update={"respect_noai": False})
    assert Fetcher(anyway).fetch(site.url("/mine")) == FetchedBody(b"mine")


def nowhere(host: str, port: int) -> list[str]:
    return []


OFFLINE = Fetcher(GUARDED, nowhere)


@given(st.text(max_size=60))
def test_no_url_makes_it_raise(url: str) -> None:
    assert isinstance(OFFLINE.fetch(url), FetchFailure)
    assert isinstance(OFFLINE.fetch(f"http://{url}"), FetchFailure)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of pictures.example, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "pictures.example")])
    now = datetime.datetime.now(datetime.UTC)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("pictures.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "both.pem"
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    file.write_bytes(cert.public_bytes(pem) + key.private_bytes(pem, form, serialization.NoEncryption()))
    return file


@pytest.fixture
def tls_port(certificate: Path) -> Iterator[int]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            (drip if self.path == "/drip" else page(b"secret"))(self)

        def log_message(self, *_: object) -> None:
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.handle_error = lambda *_: None  # type: ignore[method-assign]
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def test_tls_checks_the_name_of_the_url(tls_port: int, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str, port: int) -> list[str]:
        return ["127.0.0.1"]

    assert reason_of(Fetcher(GUARDED, resolve).fetch(f"https://pictures.example:{tls_port}/")) == "tls"
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    trusting = Fetcher(GUARDED, resolve)
    assert trusting.fetch(f"https://pictures.example:{tls_port}/") == FetchedBody(b"secret")
    assert reason_of(trusting.fetch(f"https://other.example:{tls_port}/")) == "tls"
    hasty = Fetcher(GUARDED.model_copy(update={"timeout_s": 0.4}), resolve)
    assert reason_of(hasty.fetch(f"https://pictures.example:{tls_port}/drip")) == "timeout"
