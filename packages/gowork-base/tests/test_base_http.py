"""The small HTTP listener for probes and metrics: what it answers, and what its callers can't do to it."""

from __future__ import annotations

import asyncio
import errno
import http.client
import logging
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from gowork.base import http as http_module
from gowork.base.channels import AddressError, parse_address
from gowork.base.http import CONNECTIONS_MAX, HEAD_BYTES_MAX, PAGES_MAX, HttpListener, guarded, probe, threaded

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

PATIENCE = 120.0


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that turns in another thread, as a process's does."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield loop
    if not loop.is_closed():
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def state() -> dict[str, bool]:
    return {"ready": True}


@pytest.fixture
def listener(state: dict[str, bool], loop: asyncio.AbstractEventLoop) -> Iterator[HttpListener]:
    page = probe(lambda: (state["ready"], "leading" if state["ready"] else "loading the store"), loop)
    # Nothing ends by its deadline unless a test is about that.
    with HttpListener("127.0.0.1:0", {"/readyz": page}, request_seconds=10 * PATIENCE) as listener:
        yield listener


def connect(listener: HttpListener) -> socket.socket:
    return socket.create_connection(parse_address(listener.address), timeout=PATIENCE)


def ask(listener: HttpListener, method: str, path: str, **headers: str) -> tuple[http.client.HTTPResponse, str]:
    connection = http.client.HTTPConnection(*parse_address(listener.address), timeout=PATIENCE)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        return response, response.read().decode()
    finally:
        connection.close()


def get(listener: HttpListener, path: str) -> tuple[int, str]:
    response, text = ask(listener, "GET", path)
    return response.status, text


def said(listener: HttpListener, request: bytes) -> bytes:
    """Everything that these bytes are answered with."""
    with connect(listener) as caller:
        caller.sendall(request)
        return b"".join(iter(lambda: caller.recv(65536), b""))


def test_a_probe_answers_what_its_check_says(listener: HttpListener, state: dict[str, bool]) -> None:
    assert get(listener, "/readyz") == (200, "leading\n")
    state["ready"] = False
    assert get(listener, "/readyz?verbose") == (503, "loading the store\n")


@pytest.mark.parametrize(
    ("shown", "status"),
    [
        ("Bearer secret", 200),
        ("bearer  secret ", 200),
        ("", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        ("Bearer s", 401),
        ("Bearer secret2", 401),
        ("Bearer SECRET", 401),
        ("Bearer secr\u00e9t", 401),
        ("Basic secret", 401),
        ("secret", 401),
    ],
)
def test_a_guarded_page_is_for_who_shows_the_whole_token(
    state: dict[str, bool], loop: asyncio.AbstractEventLoop, shown: str, status: int
) -> None:
    page = guarded(probe(lambda: (True, "a page"), loop), lambda: "secret")
    with HttpListener("127.0.0.1:0", {"/page": page}) as listener:
        response, text = ask(listener, "GET", "/page", Authorization=shown)
    assert (response.status, "a page" in text) == (status, status == 200)


def test_an_unknown_path_names_the_known_ones(listener: HttpListener) -> None:
    assert get(listener, "/readyz/more") == (404, "pages: /readyz\n")


def test_head_is_answered_like_get_without_the_body(listener: HttpListener) -> None:
    response, text = ask(listener, "HEAD", "/readyz")
    assert (response.status, response.headers["Content-Length"], text) == (200, "8", "")
    assert said(listener, b"HEAD /readyz HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n")
    assert said(listener, b"HEAD /no HTTP/1.1\r\n\r\n").endswith(b"\r\n\r\n")


def test_other_methods_are_refused_and_their_body_does_not_hide_the_answer(listener: HttpListener) -> None:
    body = b"x" * 50_000
    head = b"POST /readyz HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % len(body)
    answer = said(listener, head + body)
    assert answer.startswith(b"HTTP/1.1 405 Method Not Allowed\r\n")
    assert b"\r\nAllow: GET, HEAD\r\n" in answer


@pytest.mark.parametrize(
    "line", [b"\x16\x03\x01\x02\x00\n", b"PRI * HTTP/2.0", b"GET /readyz", b"GET  /readyz HTTP/1.1", b"\xff\xfe"]
)
def test_what_is_no_request_is_a_bad_request(listener: HttpListener, line: bytes) -> None:
    assert said(listener, line + b"\r\n\r\n").startswith(b"HTTP/1.1 400 Bad Request\r\n")


def test_empty_lines_before_a_request_are_passed_over(listener: HttpListener) -> None:
    assert said(listener, b"\r\n\r\nGET /readyz HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 200 OK\r\n")


def test_lines_may_end_without_a_carriage_return(listener: HttpListener) -> None:
    assert said(listener, b"GET /readyz HTTP/1.0\n\n").endswith(b"\r\n\r\nleading\n")


@pytest.mark.parametrize("line", [b"X: " + b"y" * HEAD_BYTES_MAX + b"\r\n", b"X: y\r\n" * (HEAD_BYTES_MAX // 6)])
def test_a_head_beyond_the_bound_is_refused(listener: HttpListener, line: bytes) -> None:
    assert said(listener, b"GET /readyz HTTP/1.1\r\n" + line + b"\r\n").startswith(b"HTTP/1.1 431 ")


def test_a_probe_fails_when_the_loop_does_not_turn(loop: asyncio.AbstractEventLoop) -> None:
    go_on, stopped = threading.Event(), threading.Event()
    with HttpListener("127.0.0.1:0", {"/healthz": probe(lambda: (True, "alive"), loop, seconds=0.05)}) as listener:

        def stand() -> None:
            stopped.set()
            go_on.wait(PATIENCE)

        loop.call_soon_threadsafe(stand)
        assert stopped.wait(PATIENCE)
        assert get(listener, "/healthz") == (503, "the event loop has not turned for 0.05 s\n")
        go_on.set()
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), loop).result(PATIENCE)
        assert get(listener, "/healthz") == (200, "alive\n")


def test_a_probe_fails_when_the_loop_is_closed() -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    with HttpListener("127.0.0.1:0", {"/healthz": probe(lambda: (True, "alive"), loop)}) as listener:
        assert get(listener, "/healthz") == (503, "the event loop is closed\n")


def test_a_page_of_wsgi_gets_what_was_asked_for() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [("Content-Type", "text/x-test")])
        return [f"{environ[key]} ".encode() for key in ("REQUEST_METHOD", "PATH_INFO", "QUERY_STRING", "HTTP_ACCEPT")]

    with HttpListener("127.0.0.1:0", {"/page": threaded(application)}) as listener:
        response, text = ask(listener, "GET", "/page?a=b", Accept="text/x")
        assert (response.headers["Content-Type"], text) == ("text/x-test", "GET /page a=b text/x ")


def test_a_page_is_told_headers_by_their_names_in_lower_case() -> None:
    async def page(request: http_module.Request) -> http_module.Answer:
        return http_module.Answer("200 OK", request.headers["x-one"].encode())

    with HttpListener("127.0.0.1:0", {"/": page}) as listener:
        assert said(listener, b"GET / HTTP/1.1\r\nX-One:  two \r\n\r\n").endswith(b"\r\n\r\ntwo")


def test_a_page_that_raises_is_one_record_and_unavailable(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        raise TimeoutError("the engine")

    with HttpListener("127.0.0.1:0", {"/page": threaded(application)}) as listener:
        assert get(listener, "/page") == (503, "the page can't be made now; the log says why\n")
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == ["page failed"]
    assert capfd.readouterr().err == ""


def test_callers_that_keep_their_connections_shut_nobody_out(
    listener: HttpListener, caplog: pytest.LogCaptureFixture
) -> None:
    with ExitStack() as stack:
        callers = [stack.enter_context(connect(listener)) for _ in range(2 * CONNECTIONS_MAX)]
        for caller in callers:
            caller.sendall(b"GET /readyz HTTP/1.1\r\nX: ")
        assert get(listener, "/readyz")[0] == 200
        assert len(listener._connections) <= CONNECTIONS_MAX
        # The oldest have been ended, whose callers see it.
        for caller in callers[:CONNECTIONS_MAX]:
            assert ended(caller)
    lines = [record for record in caplog.records if record.getMessage() == "HTTP connections were ended"]
    assert len(lines) == 1


def ended(caller: socket.socket) -> bool:
    """Whether the other end has ended it; waits for that."""
    try:
        return caller.recv(1) == b""
    except ConnectionResetError:
        return True


def test_a_request_that_trickles_in_is_ended_at_its_deadline(
    loop: asyncio.AbstractEventLoop, caplog: pytest.LogCaptureFixture
) -> None:
    with HttpListener("127.0.0.1:0", {}, request_seconds=0.05) as listener, connect(listener) as caller:
        caller.sendall(b"GET / HTTP/1.1\r\n")
        assert ended(caller)
        assert not listener._connections
    assert [record.__dict__["reason"] for record in caplog.records] == ["longer than 0.05 s"]


def test_an_answer_that_is_not_read_is_ended_at_its_deadline() -> None:
    def application(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        start_response("200 OK", [])
        return [b"x" * (64 << 20)]

    with (
        HttpListener("127.0.0.1:0", {"/page": threaded(application)}, request_seconds=0.5) as listener,
        connect(listener) as caller,
    ):
        caller.sendall(b"GET /page HTTP/1.1\r\n\r\n")
        wait_for(lambda: bool(listener._connections), listener)
        wait_for(lambda: not listener._connections, listener)


def wait_for(condition: Callable[[], bool], listener: HttpListener) -> None:
    """Has the listener's loop turn until this holds."""

    async def turn() -> None:
        async with asyncio.timeout(PATIENCE):
            while not condition():  # noqa: ASYNC110 - what it waits for is no event
                await asyncio.sleep(0)

    asyncio.run_coroutine_threadsafe(turn(), listener._loop).result()


def test_callers_that_reset_leave_nothing(
    listener: HttpListener, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    for sent in (b"", b"GET /readyz HT", b"GET /readyz HTTP/1.1\r\n\r\n"):
        for _ in range(10):
            caller = connect(listener)
            caller.sendall(sent)
            # The end of it is a reset.
            caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            caller.close()
    assert get(listener, "/readyz")[0] == 200
    wait_for(lambda: not listener._connections, listener)
    assert capfd.readouterr().err == ""
    assert not caplog.records


def test_pages_that_take_their_time_are_made_by_a_bounded_number_of_threads(listener: HttpListener) -> None:
    go_on, begun = threading.Event(), threading.Semaphore(0)

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        begun.release()
        go_on.wait(PATIENCE)
        start_response("200 OK", [])
        return []

    listener._pages = {**listener._pages, "/slow": threaded(application)}
    before = threading.active_count()
    with ExitStack() as stack:
        for _ in range(3 * PAGES_MAX):
            stack.enter_context(connect(listener)).sendall(b"GET /slow HTTP/1.1\r\n\r\n")
        for _ in range(PAGES_MAX):
            assert begun.acquire(timeout=PATIENCE)
        # Meanwhile probes are answered.
        assert get(listener, "/readyz")[0] == 200
        assert threading.active_count() - before <= PAGES_MAX
        go_on.set()


def test_it_stops_while_callers_are_connected(loop: asyncio.AbstractEventLoop) -> None:
    with HttpListener("127.0.0.1:0", {}) as listener:
        caller = connect(listener)
        caller.sendall(b"GET / HT")
        wait_for(lambda: bool(listener._connections), listener)
    with caller:
        assert ended(caller)


def test_a_taken_port_is_an_error_at_once(listener: HttpListener) -> None:
    with pytest.raises(OSError, match="in use"):
        HttpListener(listener.address, {})


def test_an_address_of_another_form_is_refused() -> None:
    with pytest.raises(AddressError, match="HTTP address"):
        HttpListener("9464", {})


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize(("address", "callers"), [("[::1]:0", ["::1"]), ("[::]:0", ["::1", "127.0.0.1"])])
def test_it_listens_on_ipv6(address: str, callers: list[str]) -> None:
    with HttpListener(address, {}) as listener:
        _, port = parse_address(listener.address)
        assert listener.address == f"{address.removesuffix(':0')}:{port}"
        for caller in callers:
            with socket.create_connection((caller, port), timeout=PATIENCE) as connection:
                connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
                assert connection.recv(12) == b"HTTP/1.1 404"


def test_what_a_caller_sends_after_its_answer_does_not_reset_its_connection(
    listener: HttpListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_module, "_LINGER_SECONDS", PATIENCE)
    with connect(listener) as caller:
        caller.sendall(b"GET /readyz HTTP/1.1\r\n\r\n")
        assert b"".join(iter(lambda: caller.recv(65536), b"")).endswith(b"leading\n")
        # Were it closed by now, it would be so before another caller is answered.
        assert get(listener, "/readyz")[0] == 200
        for _ in range(20):
            caller.sendall(b"x" * 1_000)
        caller.shutdown(socket.SHUT_WR)
        assert caller.recv(1) == b""


def test_a_caller_that_does_not_close_its_end_is_ended_soon_after_its_answer(
    listener: HttpListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_module, "_LINGER_SECONDS", 0.01)
    with connect(listener) as caller:
        caller.sendall(b"GET /readyz HTTP/1.1\r\n\r\n")
        assert b"".join(iter(lambda: caller.recv(65536), b"")).endswith(b"leading\n")
        wait_for(lambda: not listener._connections, listener)


def test_a_caller_that_sends_on_after_its_answer_is_ended_after_so_many_bytes(
    listener: HttpListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_module, "_LINGER_SECONDS", 10 * PATIENCE)
    with connect(listener) as caller:
        caller.sendall(b"GET /readyz HTTP/1.1\r\n\r\n")
        assert b"".join(iter(lambda: caller.recv(65536), b"")).endswith(b"leading\n")
        caller.sendall(b"x" * http_module._LINGER_BYTES_MAX)
        wait_for(lambda: not listener._connections, listener)


def test_each_line_about_ended_connections_counts_those_since_the_last(
    listener: HttpListener, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http_module, "_LOG_SECONDS", 0.0)
    monkeypatch.setattr(http_module, "CONNECTIONS_MAX", 1)
    with ExitStack() as stack:
        callers = [stack.enter_context(connect(listener)) for _ in range(4)]
        for caller in callers[:3]:
            assert ended(caller)
    assert [record.__dict__["connections"] for record in caplog.records] == [1, 1, 1]


def test_a_name_with_addresses_of_both_families_is_listened_on_by_ipv4(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        (family, socket.SOCK_STREAM, 6, "", (host, 0, *more))
        for family, host, more in ((socket.AF_INET6, "::1", (0, 0)), (socket.AF_INET, "127.0.0.1", ()))
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    with http_module._listen("both.test", 0) as listening:
        assert listening.family == socket.AF_INET


def test_the_end_of_the_listener_waits_for_no_caller(loop: asyncio.AbstractEventLoop) -> None:
    page = probe(lambda: (True, "leading"), loop)
    with ExitStack() as stack:
        listener = stack.enter_context(HttpListener("127.0.0.1:0", {"/": page}, request_seconds=10 * PATIENCE))
        silent = stack.enter_context(connect(listener))
        # It has been taken once a later one is answered.
        assert get(listener, "/")[0] == 200
        closing = threading.Thread(target=listener.__exit__, args=(None, None, None), daemon=True)
        closing.start()
        silent.settimeout(PATIENCE / 5)
        assert silent.recv(1) == b""
        closing.join(PATIENCE)
        assert not closing.is_alive()
        stack.pop_all()
    silent.close()


def test_troubles_of_the_listeners_loop_are_one_line_a_minute(
    listener: HttpListener, caplog: pytest.LogCaptureFixture
) -> None:
    loop, told = listener._loop, threading.Event()
    trouble = {"message": "socket.accept() out of system resource", "exception": OSError(24, "Too many open files")}
    for _ in range(100):
        # Callers may cause any number of them, and can't fill the log.
        loop.call_soon_threadsafe(loop.call_exception_handler, trouble)
    loop.call_soon_threadsafe(told.set)
    assert told.wait(PATIENCE)
    (record,) = caplog.records
    assert (record.name, record.getMessage()) == ("gowork.base.http", "HTTP listener is in trouble")
    assert record.exc_info is None


def test_without_a_file_descriptor_it_tries_once_a_second_and_goes_on(
    listener: HttpListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries, retries, is_full = 0, 0, True
    accept, later, told = socket.socket.accept, listener._loop.call_later, threading.Event()

    def accept_if_there_is_room(self: socket.socket) -> object:
        nonlocal tries
        if not is_full:
            return accept(self)
        tries += 1
        raise OSError(errno.EMFILE, "Too many open files")

    def retry(delay: float, callback: Callable[..., object], *arguments: object, **options: Any) -> object:
        nonlocal retries
        if getattr(callback, "__name__", "") == "_start_serving":
            retries += 1
            if retries == 3:
                told.set()
            delay = 0.0 if retries < 3 else delay
        return later(delay, callback, *arguments, **options)

    monkeypatch.setattr(socket.socket, "accept", accept_if_there_is_room)
    monkeypatch.setattr(listener._loop, "call_later", retry)
    with connect(listener) as waiting:
        assert told.wait(PATIENCE)
        # After each failure it tries again once, and not as often as the backlog is long.
        assert (tries, retries) == (3, 3)
        is_full = False
        waiting.sendall(b"GET /readyz HTTP/1.0\r\n\r\n")
        assert waiting.recv(1024).startswith(b"HTTP/1.1 200 ")


def test_as_many_callers_as_it_serves_may_come_at_once(listener: HttpListener) -> None:
    # It listens by now.
    ask(listener, "GET", "/readyz")
    # For a socket that listens, Linux has the backlog in tcpi_sacked of TCP_INFO.
    information = listener._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
    assert struct.unpack_from("I", information, 28) == (CONNECTIONS_MAX,)
