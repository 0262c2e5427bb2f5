"""A small HTTP listener for /metrics, /healthz and /readyz.

It has a thread and an event loop of its own, so that it still answers when the process's own loop has stopped turning.
Owns the listener, and the bounds of what all callers may cost together. Its owner decides what it answers. Each
connection carries one request, GET or HEAD.
"""

from __future__ import annotations

import asyncio
import hmac
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

#: Connections at once. One more ends the oldest, so that callers who keep theirs open do not shut others out.
CONNECTIONS_MAX = 64
#: How long one connection may last, from its beginning to the last byte of the answer, in seconds.
REQUEST_SECONDS = 10.0
#: Length of the request line and the headers together, in bytes.
HEAD_BYTES_MAX = 16 << 10
#: How many pages threads make at once.
PAGES_MAX = 4
#: How long a probe waits for the process's loop, in seconds.
LOOP_SECONDS = 5.0
#: How many bytes are read after the answer was sent, and for how many seconds. To close a connection with unread bytes
#: resets it, and the caller may lose the answer.
_LINGER_BYTES_MAX = 64 << 10
_LINGER_SECONDS = 1.0
#: Seconds that pass at least between two log lines about connections that were ended.
_LOG_SECONDS = 60.0

#: Returns whether the process is healthy, or ready, and a few words that say why or why not.
Probe = Callable[[], tuple[bool, str]]


class Request(NamedTuple):
    """What a caller asks for."""

    method: str
    path: str
    #: What follows the question mark.
    query: str
    #: {name in lower case: value}
    headers: Mapping[str, str]


class Answer(NamedTuple):
    """What a caller gets."""

    #: As in "200 OK".
    status: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = (("Content-Type", "text/plain; charset=utf-8"),)


#: Makes the answer to a request. It runs on the listener's loop, which it must not block.
Page = Callable[[Request], Awaitable[Answer]]


def probe(check: Probe, loop: asyncio.AbstractEventLoop, *, seconds: float = LOOP_SECONDS) -> Page:
    """Makes a page for health checks: 200 when the check succeeds, else 503; the body is the check's words.

    Args:
        check: called on `loop`.
        loop: the process's event loop. When it does not turn, the page answers 503.
        seconds: how long to wait for the loop.
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
    """Makes a page of a WSGI application. Threads run it, at most PAGES_MAX at once."""

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


def guarded(page: Page, token: Callable[[], str] | None) -> Page:
    """Makes a page that only who shows a token gets: authorization: Bearer TOKEN.

    Args:
        page: the page.
        token: returns the token, without blocking; None: everybody gets the page.
    """
    if token is None:
        return page

    async def ask(request: Request) -> Answer:
        kind, _, shown = request.headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(shown.strip().encode(), token().encode()):
            return await page(request)
        refusal = _text(HTTPStatus.UNAUTHORIZED, "show the token: authorization: Bearer TOKEN")
        return refusal._replace(headers=(*refusal.headers, ("WWW-Authenticate", "Bearer")))

    return ask


class HttpListener:
    """Serves pages by exact path; other paths are 404."""

    def __init__(
        self,
        address: str,
        pages: Mapping[str, Page],
        *,
        request_seconds: float = REQUEST_SECONDS,
        listening: socket.socket | None = None,
    ) -> None:
        """Binds at once.

        Args:
            address: HOST:PORT; port 0 takes a free one. It is not looked at with `listening`.
            pages: {path: page}.
            request_seconds: how long a connection may last.
            listening: a socket that listens already, such as a unix socket. The listener closes it.

        Raises:
            AddressError: the address has another form.
            OSError: the port is taken, or the host is not known.
        """
        host, port = ("", 0) if listening is not None else parse_address(address, name="HTTP address")
        self._pages = pages
        self._request_seconds = request_seconds
        self._socket = _listen(host, port) if listening is None else listening
        self._loop = asyncio.new_event_loop()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        #: The task of each open connection, the oldest first.
        self._connections: dict[asyncio.Task[None], None] = {}
        #: How many connections were ended and are not in the log yet, and when the log may say so next (monotonic).
        self._ended = 0
        self._quiet_until = 0.0
        #: When the log may tell of errors of the loop again (monotonic).
        self._failed_until = 0.0
        #: The HOST:PORT that it listens on, with the real port where 0 was asked for; empty with `listening`.
        self.address = format_address(host, self._socket.getsockname()[1]) if listening is None else ""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stopped.set)
        self._thread.join()

    def _run(self) -> None:
        # Not asyncio.run: at its end it waits for the threads that make pages, and a page may wait for the thread that
        # stops this listener.
        self._loop.set_default_executor(ThreadPoolExecutor(PAGES_MAX, "http page"))
        self._loop.set_exception_handler(self._failed)
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
                # The task itself cannot do this, because it may be cancelled before it begins.
                task.add_done_callback(lambda _: writer.transport.abort())
                task.add_done_callback(lambda task: self._connections.pop(task, None))

            # asyncio accepts as many connections at once as the backlog it is given. When no file descriptor is left,
            # it fails as often, and tries again after a second once for each failure: 64 times as often each second.
            # So it accepts one at a time, and the system is told the real backlog again.
            server = await asyncio.start_server(take, sock=self._socket, limit=HEAD_BYTES_MAX, backlog=1)
            self._socket.listen(CONNECTIONS_MAX)
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
        """Returns the answer, and whether to send its body; None when the caller left."""
        try:
            lines = await _head(reader)
        except ValueError:
            words = f"the request line and the headers have more than {HEAD_BYTES_MAX} bytes"
            return _text(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, words), True
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
        except Exception as error:  # noqa: BLE001 - whatever the page raises
            _log.warning("page failed", extra={"path": request.path}, exc_info=error)
            return _text(HTTPStatus.SERVICE_UNAVAILABLE, "the page can't be made now; the log says why"), body_wanted

    def _complain(self, reason: str) -> None:
        """Logs that connections were ended, at most once in _LOG_SECONDS, so that callers cannot fill the log."""
        self._ended += 1
        now = time.monotonic()
        if now >= self._quiet_until:
            _log.warning("HTTP connections were ended", extra={"connections": self._ended, "reason": reason})
            self._ended = 0
            self._quiet_until = now + _LOG_SECONDS

    def _failed(self, _: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """Logs errors of the event loop, such as that the process has no file descriptor left for another connection.

        Those of the system are logged at most once in _LOG_SECONDS, because each caller may cause one.
        """
        error = context.get("exception")
        if isinstance(error, OSError):
            now = time.monotonic()
            if now < self._failed_until:
                return
            self._failed_until = now + _LOG_SECONDS
        unexpected = error if isinstance(error, Exception) and not isinstance(error, OSError) else None
        fields = {"reason": error if isinstance(error, OSError) else context.get("message")}
        _log.warning("HTTP listener is in trouble", extra=fields, exc_info=unexpected)


def _listen(host: str, port: int) -> socket.socket:
    """Opens a listening socket. Where a name has addresses of both families, IPv4 is used."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    # [::] means all interfaces, over IPv4 too, as it does for gRPC.
    dual = host == "::" and socket.has_dualstack_ipv6()
    return socket.create_server(address, family=family, backlog=CONNECTIONS_MAX, dualstack_ipv6=dual)


async def _head(reader: asyncio.StreamReader) -> list[bytes]:
    """Reads the lines before the first empty one. Returns none when the caller closed its end before that.

    Raises:
        ValueError: the lines have more than HEAD_BYTES_MAX bytes.
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
    # Makes drain wait until all bytes have left.
    writer.transport.set_write_buffer_limits(0)
    writer.write(f"HTTP/1.1 {answer.status}\r\n{head}\r\n".encode("latin-1") + (answer.body if body_wanted else b""))
    await writer.drain()
    writer.write_eof()
    left = _LINGER_BYTES_MAX
    try:
        # Waits until the caller closes its end, which it does when it has read everything.
        async with asyncio.timeout(_LINGER_SECONDS):
            while left > 0 and (rest := await reader.read(left)):
                left -= len(rest)
    except TimeoutError:
        pass
