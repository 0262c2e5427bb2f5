"""A small HTTP listener for /metrics, /healthz and /readyz.

It has a thread and a loop of its own, so that it can tell that the process's loop has stopped to turn. Owns the
listener, and what its callers may cost together; what it answers is its owner's. Each connection carries one request,
GET or HEAD.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from http import HTTPStatus
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from gowork.base.channels import format_address, parse_address

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

_log = logging.getLogger(__name__)

#: Connections at once. One more ends the oldest, so that callers who keep their connections do not shut others out.
CONNECTIONS_MAX = 64
#: How long one connection may last, from its beginning to the last byte of the answer, in seconds.
REQUEST_SECONDS = 10.0
#: The request's line and headers together, in bytes.
HEAD_BYTES_MAX = 16 << 10
#: Pages made at once by threads.
PAGES_MAX = 4
#: How long a probe waits for the process's loop, in seconds.
LOOP_SECONDS = 5.0
#: After its answer a caller may go on to send this many bytes, for this many seconds: a connection that is closed with
#: something unread is reset, and the answer can be lost with it.
_LINGER_BYTES_MAX = 64 << 10
_LINGER_SECONDS = 1.0
#: Seconds between two lines of the log about faulty callers, at least.
_LOG_SECONDS = 60.0

#: Answers whether a probe succeeds, and in a few words why (not).
Probe = Callable[[], tuple[bool, str]]


class Request(NamedTuple):
    """What a caller asks for."""

    method: str
    path: str
    #: What follows the question mark.
    query: str
    #: By their names in lower case.
    headers: Mapping[str, str]


class Answer(NamedTuple):
    """What it gets."""

    status: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "text/plain; charset=utf-8"),)


#: Makes the answer to a request, on the listener's own loop, which it must not hold up.
Page = Callable[[Request], Awaitable[Answer]]


def probe(check: Probe, loop: asyncio.AbstractEventLoop, *, seconds: float = LOOP_SECONDS) -> Page:
    """A page for health checks: 200 when the check succeeds, else 503, with its words as text.

    Args:
        check: called on the loop.
        loop: the process's. When it does not turn, the probe fails.
        seconds: how long to wait for it.
    """

    async def ask() -> tuple[bool, str]:
        return check()

    async def page(_: Request) -> Answer:
        asked = ask()
        try:
            answer = asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asked, loop))
        except RuntimeError:
            asked.close()
            return _text(HTTPStatus.SERVICE_UNAVAILABLE, "the event loop is closed")
        try:
            good, words = await asyncio.wait_for(answer, seconds)
        except TimeoutError:
            good, words = False, f"the event loop has not turned for {seconds:g} s"
        return _text(HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE, words)

    return page


def threaded(application: WSGIApplication) -> Page:
    """A WSGI application as a page; threads make it, PAGES_MAX at once."""

    def make(request: Request) -> Answer:
        environ = {
            "REQUEST_METHOD": request.method,
            "PATH_INFO": request.path,
            "QUERY_STRING": request.query,
            **{f"HTTP_{name.upper().replace('-', '_')}": value for name, value in request.headers.items()},
        }
        begun: list[tuple[str, tuple[tuple[str, str], ...]]] = []
        body: list[bytes] = []

        def start_response(status: str, headers: list[tuple[str, str]], _: object = None) -> Callable[[bytes], object]:
            begun.append((status, tuple(headers)))
            return body.append

        body.extend(application(environ, start_response))
        status, headers = begun[-1]
        return Answer(status, b"".join(body), headers)

    async def page(request: Request) -> Answer:
        return await asyncio.to_thread(make, request)

    return page


class HttpListener:
    """Serves pages by exact path; other paths are 404."""

    def __init__(self, address: str, pages: Mapping[str, Page], *, request_seconds: float = REQUEST_SECONDS) -> None:
        """Binds at once.

        Args:
            address: HOST:PORT; port 0 takes a free one.
            pages: path to page.
            request_seconds: how long a connection may last.

        Raises:
            AddressError: for an address of another form.
            OSError: when the port is taken, or the host not known.
        """
        host, port = parse_address(address, name="HTTP address")
        self._pages = pages
        self._request_seconds = request_seconds
        self._socket = _listen(host, port)
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        #: Of each connection, the oldest first.
        self._connections: dict[asyncio.Task[None], None] = {}
        #: Connections that were ended and not spoken of yet, and when that may be done again (monotonic).
        self._ended = 0
        self._quiet_until = 0.0
        #: HOST:PORT that it listens on.
        self.address = format_address(host, self._socket.getsockname()[1])

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    def _run(self) -> None:
        # Not asyncio.run: it would wait at its end for threads, and their pages may wait for the thread that stops it.
        self._loop.set_default_executor(ThreadPoolExecutor(PAGES_MAX, "http page"))
        self._loop.set_exception_handler(_failed)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        async with asyncio.TaskGroup() as group:

            def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                if len(self._connections) >= CONNECTIONS_MAX:
                    oldest = next(iter(self._connections))
                    del self._connections[oldest]
                    oldest.cancel()
                    self._complain(f"more than {CONNECTIONS_MAX} at once")
                task = group.create_task(self._take(reader, writer))
                self._connections[task] = None
                # Not in the task, which may be cancelled before it begins.
                task.add_done_callback(lambda _: writer.transport.abort())
                task.add_done_callback(lambda task: self._connections.pop(task, None))

            server = await asyncio.start_server(take, sock=self._socket, limit=HEAD_BYTES_MAX)
            await self._stopped.wait()
            server.close()
            for connection in self._connections:
                connection.cancel()

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(self._request_seconds):
                answer = await self._answer(reader)
                if answer is not None:
                    await _send(reader, writer, *answer)
        except TimeoutError:
            self._complain(f"longer than {self._request_seconds:g} s")
        except OSError:
            pass  # The caller is gone.

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[Answer, bool] | None:
        """The answer, and whether its body is wanted; None when the caller left."""
        try:
            lines = await _head(reader)
        except ValueError:
            return _text(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"more than {HEAD_BYTES_MAX} bytes"), True
        if not lines:
            return None
        request = _parse(lines)
        if request is None:
            return _text(HTTPStatus.BAD_REQUEST, "this is no request of HTTP/1"), True
        body_wanted = request.method != "HEAD"
        page = self._pages.get(request.path)
        if page is None:
            return _text(HTTPStatus.NOT_FOUND, "pages: " + " ".join(sorted(self._pages))), body_wanted
        if request.method not in ("GET", "HEAD"):
            refusal = _text(HTTPStatus.METHOD_NOT_ALLOWED, "methods: GET HEAD")
            return refusal._replace(headers=(*refusal.headers, ("Allow", "GET, HEAD"))), True
        try:
            return await page(request), body_wanted
        except Exception as error:  # noqa: BLE001 - whatever makes the page
            _log.warning("page failed", extra={"path": request.path}, exc_info=error)
            return _text(HTTPStatus.SERVICE_UNAVAILABLE, "the page can't be made now; the log says why"), body_wanted

    def _complain(self, reason: str) -> None:
        """Says that a connection was ended. It does so seldom, because callers could fill the log otherwise."""
        self._ended += 1
        now = time.monotonic()
        if now >= self._quiet_until:
            _log.warning("HTTP connections were ended", extra={"connections": self._ended, "reason": reason})
            self._ended = 0
            self._quiet_until = now + _LOG_SECONDS


def _failed(_: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """The loop's own troubles: foremost that the process has no descriptor left for one more connection."""
    error = context.get("exception")
    unexpected = error if isinstance(error, Exception) and not isinstance(error, OSError) else None
    fields = {"reason": error if isinstance(error, OSError) else context.get("message")}
    _log.warning("HTTP listener is in trouble", extra=fields, exc_info=unexpected)


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket. A name that has addresses of both families is served by IPv4."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    # As gRPC does: [::] is every interface, with IPv4 too.
    dual = host == "::" and socket.has_dualstack_ipv6()
    return socket.create_server(address, family=family, backlog=CONNECTIONS_MAX, dualstack_ipv6=dual)


async def _head(reader: asyncio.StreamReader) -> list[bytes]:
    """The lines before the first empty one; none when the caller says no more before that.

    Raises:
        ValueError: when they are longer than HEAD_BYTES_MAX.
    """
    lines: list[bytes] = []
    size = 0
    while line := await reader.readline():
        size += len(line)
        if size > HEAD_BYTES_MAX:
            raise ValueError
        if line.rstrip(b"\r\n"):
            lines.append(line.rstrip(b"\r\n"))
        elif lines:
            return lines
    return []


def _parse(lines: list[bytes]) -> Request | None:
    words = lines[0].decode("latin-1").split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return None
    path, _, query = words[1].partition("?")
    split = (line.decode("latin-1").partition(":") for line in lines[1:])
    return Request(words[0], path, query, {name.strip().lower(): value.strip() for name, _, value in split})


def _text(status: HTTPStatus, words: str) -> Answer:
    return Answer(f"{status.value} {status.phrase}", words.encode() + b"\n")


async def _send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer: Answer, body_wanted: bool) -> None:
    fields = {
        **dict(answer.headers),
        "Date": formatdate(usegmt=True),
        "Content-Length": str(len(answer.body)),
        "Connection": "close",
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    # So that drain waits until all of it has left.
    writer.transport.set_write_buffer_limits(0)
    writer.write(f"HTTP/1.1 {answer.status}\r\n{head}\r\n".encode("latin-1") + (answer.body if body_wanted else b""))
    await writer.drain()
    writer.write_eof()
    left = _LINGER_BYTES_MAX
    try:
        # Until the caller has closed its end, which it does once it has read all.
        async with asyncio.timeout(_LINGER_SECONDS):
            while left > 0 and (rest := await reader.read(left)):
                left -= len(rest)
    except TimeoutError:
        pass
