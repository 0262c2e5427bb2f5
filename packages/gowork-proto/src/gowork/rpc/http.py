"""A small HTTP listener for /metrics, /healthz and /readyz.

It has a thread of its own, so that a busy loop can still be looked at. Owns the listener; what it answers is its
caller's.
"""

from __future__ import annotations

import selectors
import socket
import socketserver
import threading
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from gowork.rpc.channels import format_address, parse_address

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

#: Answers whether a probe succeeds, and in a few words why (not).
Probe = Callable[[], tuple[bool, str]]


def probe(check: Probe) -> WSGIApplication:
    """A page for health checks: 200 when the check succeeds, else 503, with its words as text."""

    def page(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        good, words = check()
        return _text(start_response, "200 OK" if good else "503 Service Unavailable", words)

    return page


class HttpListener:
    """Serves WSGI applications by exact path; other paths are 404."""

    def __init__(self, address: str, pages: Mapping[str, WSGIApplication]) -> None:
        """Binds at once.

        Args:
            address: HOST:PORT; port 0 takes a free one.
            pages: path to application.

        Raises:
            AddressError: for an address of another form.
            OSError: when the port is taken.
        """
        host, port = parse_address(address, name="HTTP address")
        self._pages = pages
        self._server = make_server(host, port, self._route, server_class=_Server, handler_class=_Handler)
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)
        self._stop, self._stopped = socket.socketpair()
        #: HOST:PORT that it listens on.
        self.address = format_address(host, self._server.server_port)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.close()
        self._thread.join()
        self._stopped.close()
        self._server.server_close()

    def _serve(self) -> None:
        # Not serve_forever: that looks twice a second whether it is to stop, which costs idle processes wake-ups and
        # stopping ones half a second.
        with selectors.DefaultSelector() as selector:
            selector.register(self._server, selectors.EVENT_READ)
            selector.register(self._stopped, selectors.EVENT_READ)
            while all(key.fileobj is not self._stopped for key, _ in selector.select()):
                self._server.handle_request()

    def _route(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        page = self._pages.get(environ.get("PATH_INFO", ""))
        if page is None:
            return _text(start_response, "404 Not Found", "pages: " + " ".join(sorted(self._pages)))
        return page(environ, start_response)


def _text(start_response: StartResponse, status: str, words: str) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [words.encode() + b"\n"]


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True
    #: A caller that was gone before it could be accepted must not hold up the next one.
    timeout = 0


class _Handler(WSGIRequestHandler):
    #: A client that sends nothing is dropped after this many seconds.
    timeout = 10

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name in the base class
        """Says nothing: probes come every few seconds."""
