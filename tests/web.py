"""A web server on loopback whose pages do what a test says."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Page = Callable[[BaseHTTPRequestHandler], None]


def page(body: bytes = b"", status: int = 200, headers: Mapping[str, str] | None = None) -> Page:
    """Answers with `body`."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | dict(headers or {})).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def redirect(location: str, status: int = 302) -> Page:
    """Sends the client on."""
    return page(b"", status, {"Location": location})


@dataclass
class Site:
    """Pages by path, "*" for all others; counts what was asked for."""

    pages: dict[str, Page] = field(default_factory=dict)
    hits: Counter[str] = field(default_factory=Counter)
    seen: list[Mapping[str, str]] = field(default_factory=list)
    """The headers of each request."""
    open_now: int = 0
    open_most: int = 0
    port: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        with self.lock:
            self.hits[handler.path] += 1
            self.seen.append(dict(handler.headers))
            self.open_now += 1
            self.open_most = max(self.open_most, self.open_now)
        try:
            missing = self.pages.get("*", page(b"no such page", 404))
            self.pages.get(handler.path, missing)(handler)
        finally:
            with self.lock:
                self.open_now -= 1


@contextmanager
def serving(pages: Mapping[str, Page] | None = None) -> Iterator[Site]:
    """A site on a free port of 127.0.0.1."""
    site = Site(dict(pages or {}))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, *_: object) -> None:
            pass  # clients that hang up are part of the tests

    server = Server(("127.0.0.1", 0), Handler)
    site.port = server.server_address[1]
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
