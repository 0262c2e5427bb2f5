"""The handler `http`, with a real server on loopback."""

from __future__ import annotations

import base64
import gzip
import json
import re
import socket
import socketserver
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from gowork.worker.errors import PluginError
from gowork.worker.testing import FailureKind, Outcome, Status, Switch, cancel, run_handler
from gowork_plugin_http import ALLOW_VARIABLE, HttpResult
from gowork_plugin_http.addresses import NETWORKS_MAX, Addresses
from gowork_plugin_http.bodies import MEMBERS_MAX, Body
from gowork_plugin_http.plugin import RETRY_AFTER_SECONDS_MAX, retry_after
from gowork_plugin_http.redirects import Request, next_request

PLUGIN = "gowork_plugin_http.plugin"
#: What the server answers with: bytes, or a function that is given the connection.
Answer = bytes | Callable[[socket.socket], None]


class Server:
    """A server that answers each path as it is told to, and keeps what it was sent."""

    def __init__(self, host: str = "127.0.0.1") -> None:
        self.answers: dict[str, Answer] = {}
        #: (request line, {header in small letters: value}, body), in order.
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        #: Set when the test is over. Answers that never end wait for it.
        self.over = threading.Event()
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                line = self.rfile.readline().decode().strip()
                headers = {}
                while raw := self.rfile.readline().decode("latin-1").strip():
                    name, _, value = raw.partition(":")
                    headers[name.lower()] = value.strip()
                body = self.rfile.read(int(headers.get("content-length", 0)))
                outer.requests.append((line, headers, body))
                answer = outer.answers[line.split()[1].partition("?")[0]]
                if callable(answer):
                    answer(self.connection)
                elif line.startswith("HEAD "):
                    self.wfile.write(b"".join(answer.partition(b"\r\n\r\n")[:2]))
                else:
                    self.wfile.write(answer)

        self._server = socketserver.ThreadingTCPServer((host, 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.port = self._server.server_address[1]
        self.url = f"http://{host}:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        """The headers of the latest request."""
        return self.requests[-1][1]

    def close(self) -> None:
        self.over.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server on 127.0.0.1, which may be called."""
    monkeypatch.setenv(ALLOW_VARIABLE, "127.0.0.1")
    server = Server()
    yield server
    server.close()


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server on another port."""
    server = Server()
    yield server
    server.close()


def answer(body: bytes = b"", status: str = "200 OK", **headers: str) -> bytes:
    """An answer with these headers, where an underline stands for a hyphen."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def attempt(url: str, options: dict[str, Any] | None = None, **job: Any) -> Outcome:
    return run_handler("http", {"url": url, **job}, imports=[PLUGIN], max_attempts=2, **(options or {}))


def call(url: str, **job: Any) -> HttpResult:
    return attempt(url, **job).result_as(HttpResult)


def failed(outcome: Outcome, kind: str, *, retried: bool) -> str:
    """The message of a failure of this type."""
    assert outcome.failure is not None
    assert (outcome.failure.type, outcome.will_retry) == (kind, retried)
    return outcome.failure.message


def test_a_service_is_called_and_its_answer_returned(server: Server) -> None:
    server.answers["/a"] = answer("grün".encode(), Content_Type="text/plain; charset=utf-8", X_One="1")
    result = call(f"{server.url}/a?b=c#fragment", headers={"X-Mine": "é"})
    assert (result.status, result.body, result.body_base64, result.truncated) == (200, "grün", "", False)
    assert (result.url, result.redirects, result.headers["x-one"]) == (f"{server.url}/a?b=c", 0, "1")
    assert result.seconds > 0
    line, headers, body = server.requests[0]
    assert (line, body) == ("GET /a?b=c HTTP/1.1", b"")
    assert headers["accept-encoding"] == "gzip, deflate"
    assert "idempotency-key" not in headers


@pytest.mark.parametrize(
    ("job", "body", "kind"),
    [
        ({"body": "grün"}, "grün".encode(), "text/plain; charset=utf-8"),
        ({"body_base64": "AP8="}, b"\x00\xff", "application/octet-stream"),
        ({"json": {"a": [1, None]}}, b'{"a":[1,null]}', "application/json"),
        ({"json": None}, b"null", "application/json"),
        ({"body": "<a/>", "headers": {"Content-Type": "text/xml"}}, b"<a/>", "text/xml"),
        ({"body": ""}, b"", "text/plain; charset=utf-8"),
    ],
)
def test_what_is_sent_has_its_type(server: Server, job: dict[str, Any], body: bytes, kind: str) -> None:
    server.answers["/"] = answer()
    call(f"{server.url}/", method="PUT", **job)
    assert server.requests[0][2] == body
    assert server.headers["content-type"] == kind


@pytest.mark.parametrize(("method", "is_sent"), [("POST", True), ("PATCH", True), ("PUT", False), ("DELETE", False)])
def test_what_must_not_be_done_twice_carries_the_tasks_id(server: Server, method: str, is_sent: bool) -> None:
    server.answers["/"] = answer()
    attempt(f"{server.url}/", {"id": "order 7/ü"}, method=method)
    assert server.headers.get("idempotency-key") == ("order%207/%C3%BC" if is_sent else None)


def test_a_key_of_ones_own_is_sent_instead(server: Server) -> None:
    server.answers["/"] = answer()
    call(f"{server.url}/", method="POST", headers={"idempotency-KEY": "mine"})
    assert server.headers["idempotency-key"] == "mine"


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_status_that_may_pass_is_tried_again(server: Server, status: int) -> None:
    server.answers["/"] = answer(b"too busy\n", f"{status} Whatever")
    outcome = attempt(f"{server.url}/")
    said = failed(outcome, "HttpFailed", retried=True)
    assert said.startswith(f"the status is {status} ")
    assert said.endswith("\nbody: too busy")


@pytest.mark.parametrize("status", [300, 304, 400, 401, 404, 409, 410, 422, 501, 505, 599])
def test_another_status_fails_for_good(server: Server, status: int) -> None:
    server.answers["/"] = answer(b"", f"{status} Whatever")
    assert failed(attempt(f"{server.url}/"), "Fail", retried=False).startswith(f"the status is {status}")


def test_a_status_is_a_result_without_check(server: Server) -> None:
    server.answers["/"] = answer(b"none", "404 Not Found")
    result = call(f"{server.url}/", check=False)
    assert (result.status, result.body) == (404, "none")


def test_a_server_that_says_when_is_asked_again_then(server: Server) -> None:
    server.answers["/"] = answer(b"", "503 Service Unavailable", Retry_After="17")
    outcome = attempt(f"{server.url}/")
    assert failed(outcome, "Retry", retried=True)
    assert outcome.retry_delay == 17


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0),
        ("90", 90),
        ("99999999999999999999999999999", RETRY_AFTER_SECONDS_MAX),
        ("Thu, 01 Jan 1970 00:00:01 GMT", 0),
        ("Thu, 01 Jan 1970 00:18:20 GMT", 100),
        ("Fri, 31 Dec 9999 23:59:59 GMT", RETRY_AFTER_SECONDS_MAX),
        ("-5", None),
        ("1.5", None),
        ("²", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_read_and_bounded(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, now=1000.0) == seconds


def test_no_answer_is_tried_again(server: Server) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/"
        assert "there was no answer: " in failed(attempt(url), "HttpFailed", retried=True)
    server.answers["/"] = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf"
    assert "no whole answer" in failed(attempt(f"{server.url}/"), "HttpFailed", retried=True)
    server.answers["/"] = b"This is no HTTP.\r\n\r\n"
    assert "no whole answer" in failed(attempt(f"{server.url}/"), "HttpFailed", retried=True)


@pytest.mark.parametrize(
    "beginning", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", b"HTTP/1.1 200 OK\r\nX-"]
)
def test_a_slow_answer_ends_with_the_time_limit_of_the_call(server: Server, beginning: bytes) -> None:
    def stall(connection: socket.socket) -> None:
        connection.sendall(beginning)
        server.over.wait()

    server.answers["/"] = stall
    said = failed(attempt(f"{server.url}/", timeout=0.2), "HttpFailed", retried=True)
    assert said == "there was no whole answer within 0.2 s (timeout)"


def test_a_cancel_ends_the_call(server: Server) -> None:
    stop = Switch()

    def stall(connection: socket.socket) -> None:
        stop.flip()
        server.over.wait()

    server.answers["/"] = stall
    outcome = attempt(f"{server.url}/", {"faults": [cancel(on=stop)]})
    assert (outcome.status, outcome.was_killed) == (Status.CANCELLED, False)


@pytest.mark.parametrize("size", [0, 1, 99, 100])
def test_a_body_within_its_bound_is_whole(server: Server, size: int) -> None:
    server.answers["/"] = answer(b"x" * size)
    result = call(f"{server.url}/", body_bytes_max=100)
    assert (result.body, result.truncated) == ("x" * size, False)


def test_a_body_that_never_ends_is_cut_and_not_waited_for(server: Server) -> None:
    def flood(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            while not server.over.is_set():
                connection.sendall(b"x" * 65536)
        except OSError:
            pass  # The client has had enough.

    server.answers["/"] = flood
    result = call(f"{server.url}/", body_bytes_max=100)
    assert (result.body, result.truncated) == ("x" * 100, True)


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_a_decompression_bomb_is_cut(server: Server, encoding: str, pack: Callable[[bytes], bytes]) -> None:
    server.answers["/"] = answer(pack(b"0" * 50_000_000), Content_Encoding=encoding)
    result = call(f"{server.url}/", body_bytes_max=1000)
    assert (result.body, result.truncated) == ("0" * 1000, True)
    server.answers["/"] = answer(pack(b"small"), Content_Encoding=encoding)
    result = call(f"{server.url}/", body_bytes_max=5)
    assert (result.body, result.truncated) == ("small", False)


class Stream:
    """Bytes that come in steps."""

    def __init__(self, data: bytes, step: int) -> None:
        self._data = data
        self._step = step

    async def readany(self) -> bytes:
        data, self._data = self._data[: self._step], self._data[self._step :]
        return data


async def test_no_more_is_decompressed_than_is_kept() -> None:
    stream = Stream(gzip.compress(b"0" * 50_000_000), 1 << 20)
    body = Body("gzip", 1000)
    tracemalloc.start()
    try:
        await body.read(stream)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(body.content), body.truncated) == (1000, True)
    assert peak < 5_000_000


def test_what_cannot_be_decompressed_fails_for_good(server: Server) -> None:
    server.answers["/"] = answer(b"not packed", Content_Encoding="gzip")
    assert "can't be decompressed" in failed(attempt(f"{server.url}/"), "Fail", retried=False)


def headless(data: bytes) -> bytes:
    """Deflate without the header of zlib."""
    packing = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packing.compress(data) + packing.flush()


@pytest.mark.parametrize(
    ("encoding", "packed"),
    [
        ("gzip", gzip.compress(b"one ") + gzip.compress(b"") + gzip.compress(b"two")),
        ("gzip", gzip.compress(b"one two") + bytes(100)),
        ("gzip", gzip.compress(b"one two") + b"more"),
        ("deflate", zlib.compress(b"one two") + zlib.compress(b"three")),
        ("deflate", headless(b"one two")),
    ],
    ids=["members", "zeros behind", "other bytes behind", "one member of zlib", "without zlib's header"],
)
@pytest.mark.parametrize("step", [1, 1000])
async def test_each_form_of_compressed_data_is_read(encoding: str, packed: bytes, step: int) -> None:
    body = Body(encoding, 1000)
    await body.read(Stream(packed, step))
    assert (body.text(None), body.truncated) == ("one two", False)


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_an_answer_whose_compressed_data_is_cut_is_tried_again(server: Server, encoding: str) -> None:
    packed = gzip.compress(b"one two three") if encoding == "gzip" else zlib.compress(b"one two three")
    server.answers["/"] = answer(packed[:-5], Content_Encoding=encoding)
    assert "ends before" in failed(attempt(f"{server.url}/"), "HttpFailed", retried=True)
    server.answers["/"] = answer(b"", Content_Encoding=encoding)
    assert call(f"{server.url}/").body == ""


async def test_a_body_of_many_empty_members_is_refused() -> None:
    body = Body("gzip", 1000)
    with pytest.raises(ValueError, match="members"):
        await body.read(Stream(gzip.compress(b"") * (MEMBERS_MAX + 1), 1 << 20))


def test_names_are_looked_up_beside_the_threads_of_the_loop(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that does not answer must not keep the loop's threads from other handlers."""
    threads = []
    before = socket.getaddrinfo

    def noting(host: Any, *options: Any, **named: Any) -> Any:
        if host == "localhost":
            threads.append(threading.current_thread().name)
        return before(host, *options, **named)

    monkeypatch.setattr(socket, "getaddrinfo", noting)
    server.answers["/"] = answer(b"reached")
    assert call(f"http://localhost:{server.port}/").body == "reached"
    assert threads
    assert all(name.startswith("gowork-http-lookup") for name in threads)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (b"\x00\xff\xfe", "application/octet-stream"),
        (b"text", "text/plain; charset=idna"),
        (b"text", "text/plain; charset=zlib"),
        (b"text", "text/plain; charset=no-such"),
        (b"\xff", "text/plain; charset=utf-8"),
    ],
)
def test_a_body_that_is_no_text_comes_in_base64(server: Server, body: bytes, kind: str) -> None:
    server.answers["/"] = answer(body, Content_Type=kind)
    result = call(f"{server.url}/")
    assert (result.body, base64.b64decode(result.body_base64)) == ("", body)


def test_a_character_that_is_cut_does_not_make_a_text_bytes(server: Server) -> None:
    server.answers["/"] = answer("aüü".encode())
    assert call(f"{server.url}/", body_bytes_max=4).body == "aü"
    server.answers["/"] = answer("é".encode("latin-1"), Content_Type="text/plain; charset=ISO-8859-1")
    assert call(f"{server.url}/").body == "é"


def test_a_body_of_control_characters_still_fits_into_a_result(server: Server) -> None:
    server.answers["/"] = answer(b"\0" * 400_000)
    result = call(f"{server.url}/", body_bytes_max=400_000)
    assert result.truncated
    assert len(json.dumps(result.body)) <= 1 << 20


def test_a_header_that_is_not_utf_8_is_a_text_all_the_same(server: Server) -> None:
    server.answers["/"] = answer(b"", X_Name="caf\xe9")
    assert call(f"{server.url}/").headers["x-name"] == "caf?"


def test_huge_headers_of_an_answer_are_refused(server: Server) -> None:
    server.answers["/long"] = answer(X_Long="x" * 100_000)
    failed(attempt(f"{server.url}/long"), "HttpFailed", retried=True)
    server.answers["/many"] = answer(b"", **{f"X_{number}": "x" * 7000 for number in range(12)})
    assert "at most 65536 are read" in failed(attempt(f"{server.url}/many"), "Fail", retried=False)


@pytest.mark.parametrize(
    ("status", "method", "then"),
    [
        (301, "GET", "GET"), (302, "HEAD", "HEAD"), (301, "POST", "GET"), (302, "POST", "GET"), (303, "PUT", "GET"),
        (303, "POST", "GET"), (303, "HEAD", "HEAD"), (301, "PUT", "PUT"), (307, "POST", "POST"),
        (308, "PATCH", "PATCH"),
    ],
)  # fmt: skip
def test_redirects_are_followed_as_browsers_do(server: Server, status: int, method: str, then: str) -> None:
    server.answers["/from"] = answer(b"", f"{status} Whatever", Location="to?a=b")
    server.answers["/to"] = answer(b"here")
    job: dict[str, Any] = {"body": "sent"} if method in ("POST", "PUT", "PATCH") else {}
    result = call(f"{server.url}/from", method=method, headers={"Authorization": "secret"}, **job)
    assert (result.status, result.redirects, result.url) == (200, 1, f"{server.url}/to?a=b")
    line, headers, body = server.requests[-1]
    assert line == f"{then} /to?a=b HTTP/1.1"
    assert body == (b"sent" if then == method and job else b"")
    assert ("content-type" in headers) == bool(body)
    assert headers["authorization"] == "secret"


def test_redirects_are_bounded(server: Server) -> None:
    server.answers["/"] = answer(b"", "302 Found", Location="/")
    assert "more than 3 redirects" in failed(attempt(f"{server.url}/", redirects_max=3), "Fail", retried=False)
    assert len(server.requests) == 4
    assert call(f"{server.url}/", redirects_max=0, check=False).status == 302


def test_nothing_secret_goes_to_another_origin(server: Server, other: Server) -> None:
    server.answers["/"] = answer(b"", "302 Found", Location=f"{other.url}/", Set_Cookie="session=1")
    other.answers["/"] = answer(b"there")
    secrets = {"Authorization": "a", "Cookie": "b", "X-Api-Key": "c", "Idempotency-Key": "d", "Accept": "text/html"}
    assert call(f"{server.url}/", method="POST", headers=secrets, body="sent").body == "there"
    assert set(other.headers) == {"host", "connection", "accept", "accept-encoding", "user-agent"}
    assert other.headers["accept"] == "text/html"


def test_a_body_is_not_sent_on_to_another_origin(server: Server, other: Server) -> None:
    server.answers["/"] = answer(b"", "307 Temporary Redirect", Location=f"{other.url}/")
    said = failed(attempt(f"{server.url}/", method="POST", body="secret"), "Fail", retried=False)
    assert "which the body was not meant for" in said
    assert other.requests == []


@pytest.mark.parametrize(
    ("url", "location", "is_kept"),
    [
        ("http://one.example/a", "https://one.example/b", True),
        ("http://one.example/a", "https://two.example/b", False),
        ("http://one.example/a", "https://one.example:8443/b", False),
        ("http://one.example:8080/a", "https://one.example/b", False),
        ("https://one.example/a", "http://one.example/b", False),
    ],
)
def test_a_secret_goes_to_the_same_host_over_tls_at_the_usual_ports_alone(
    url: str, location: str, is_kept: bool
) -> None:
    following = next_request(Request(URL(url), "GET", {"authorization": "a"}, None), 301, location)
    assert following is not None
    assert following.headers == ({"authorization": "a"} if is_kept else {})


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("ftp://127.0.0.1/", "only http and https"),
        ("file:///etc/passwd", "only http and https"),
        ("http://name:hush@127.0.0.1/", "a name or a password"),
        ("http://127.0.0.1:99999/", "ort out of range"),
    ],
)
def test_a_redirect_is_held_to_the_rules_of_the_first_url(server: Server, location: str, words: str) -> None:
    server.answers["/"] = answer(b"", "302 Found", Location=location)
    said = failed(attempt(f"{server.url}/"), "Fail", retried=False)
    assert said.startswith("the redirect can't be followed: ")
    assert words in said
    assert "hush" not in said


def test_cookies_are_not_kept(server: Server) -> None:
    server.answers["/a"] = answer(b"", "302 Found", Location="/b", Set_Cookie="session=1")
    server.answers["/b"] = answer()
    call(f"{server.url}/a")
    assert "cookie" not in server.headers


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "127.1", "2130706433", "0x7f000001", "[::ffff:127.0.0.1]"])
def test_what_is_not_public_is_not_dialled_however_it_is_written(
    server: Server, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setenv(ALLOW_VARIABLE, "10.0.0.0/8")
    server.answers["/"] = answer(b"reached")
    said = failed(attempt(f"http://{host}:{server.port}/"), "Fail", retried=False)
    # The other two are what newer and older versions of the HTTP library say of a host of digits that is no address.
    words = (
        f"which is not public, so it is not called; {ALLOW_VARIABLE}",
        "not a canonical IPv4 address",
        f"'{host}' does not appear to be an IPv4 or IPv6 address",
    )
    assert any(each in said for each in words), said
    assert server.requests == []


def test_a_redirect_to_what_is_not_public_is_not_followed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = Server("127.0.0.2")
    try:
        server.answers["/"] = answer(b"", "302 Found", Location=f"{inner.url}/")
        assert "its host is at 127.0.0.2" in failed(attempt(f"{server.url}/"), "Fail", retried=False)
        assert inner.requests == []
    finally:
        inner.close()


def test_a_name_that_changes_its_address_is_refused_where_it_is_dialled(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up = []
    before = socket.getaddrinfo

    def rebinding(host: Any, port: Any, *options: Any, **named: Any) -> Any:
        if host != "rebinding.test":
            return before(host, port, *options, **named)
        looked_up.append(host)
        address = "127.0.0.1" if len(looked_up) == 1 else "127.0.0.2"
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    server.answers["/"] = answer(b"", "302 Found", Location="/again")
    server.answers["/again"] = answer(b"reached")
    said = failed(attempt(f"http://rebinding.test:{server.port}/"), "Fail", retried=False)
    assert "its host is at 127.0.0.2" in said
    assert len(looked_up) == 2
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0", "10.1.2.3", "100.64.0.1", "100.100.100.200", "127.0.0.1", "127.255.255.254", "168.63.129.16",
        "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.8", "192.0.2.1", "192.88.99.1", "192.168.1.1",
        "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255",
        "::", "::1", "::127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:0:127.0.0.1",
        "64:ff9b::7f00:1", "64:ff9b:1::1", "100::1", "2001::1", "2001:db8::1", "2002:7f00:1::", "fc00::1",
        "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "5f00::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not Addresses("").may_dial(address)


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "93.184.216.34", "172.32.0.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"],
)
def test_addresses_that_are_public(address: str) -> None:
    assert Addresses("").may_dial(address)


def test_a_setting_allows_its_addresses_alone() -> None:
    addresses = Addresses("127.0.0.1, 10.20.0.0/16\nfd00::/8")
    assert all(map(addresses.may_dial, ["127.0.0.1", "::ffff:127.0.0.1", "10.20.255.1", "fd12::1", "1.1.1.1"]))
    assert not any(map(addresses.may_dial, ["127.0.0.2", "10.21.0.1", "fc00::1", "::1", "169.254.169.254"]))


@pytest.mark.parametrize("setting", ["localhost", "10.0.0.0/33", "10.1.2.3/8", "127.0.0.1:80", "*"])
def test_a_setting_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    monkeypatch.setenv(ALLOW_VARIABLE, setting)
    with pytest.raises(PluginError, match=f"{ALLOW_VARIABLE}: .*write addresses and networks"):
        attempt("http://127.0.0.1/")


def test_the_number_of_networks_is_bounded() -> None:
    with pytest.raises(ValueError, match=f"at most {NETWORKS_MAX}"):
        Addresses("10.0.0.1 " * (NETWORKS_MAX + 1))


def test_proxies_and_passwords_of_the_environment_are_not_used(
    server: Server, other: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, other.url)
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password hush\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    server.answers["/"] = answer(b"direct")
    assert call(f"{server.url}/").body == "direct"
    assert "authorization" not in server.headers
    assert other.requests == []


@pytest.mark.parametrize(
    ("job", "word"),
    [
        ({}, "url"),
        ({"url": "127.0.0.1/a"}, "only http and https"),
        ({"url": "ftp://example.org"}, "only http and https"),
        ({"url": "file:///etc/passwd"}, "only http and https"),
        ({"url": "http:///a"}, "url: "),
        ({"url": "http://example.org:99999/"}, "url: "),
        ({"url": "http://example.org/a b"}, "not printable"),
        ({"url": "http://example.org/a\r\nHost: b"}, "not printable"),
        ({"url": "http://example.org/" + "a" * 9000}, "at most 8192"),
        ({"url": "http://me:hush@example.org/"}, "header Authorization"),
        ({"url": "http://me@example.org/"}, "header Authorization"),
        ({"url": "http://me:hush@example.org:99999/"}, "see its port"),
        ({"method": "TRACE"}, "method"),
        ({"method": "get"}, "method"),
        ({"headers": {"X-A": "1\r\nX-B: 2"}}, "the value of X-A has an end of line"),
        ({"headers": {"X-A": "1\nX-B: 2"}}, "the value of X-A has an end of line"),
        ({"headers": {"X-A": "\0"}}, "the value of X-A"),
        ({"headers": {"X-A": "€"}}, "ISO 8859-1"),
        ({"headers": {"X-A\r\nX-B": "1"}}, "no name of a header"),
        ({"headers": {"": "1"}}, "no name of a header"),
        ({"headers": {"X A": "1"}}, "no name of a header"),
        ({"headers": {"Host": "b"}}, "Host is written by the client"),
        ({"headers": {"transfer-encoding": "chunked"}}, "transfer-encoding is written by the client"),
        ({"headers": {"X-A": "1", "x-a": "2"}}, "twice"),
        ({"headers": {f"X-{number}": "" for number in range(101)}}, "at most 100"),
        ({"headers": {"X-A": "x" * 40_000}}, "at most 32768"),
        ({"body": "a", "json": 1}, "one of them"),
        ({"body": "a", "body_base64": "AA=="}, "one of them"),
        ({"body_base64": "?"}, "body_base64"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": 3601}, "timeout"),
        ({"redirects_max": 21}, "redirects_max"),
        ({"redirects_max": -1}, "redirects_max"),
        ({"body_bytes_max": 1 << 20}, "body_bytes_max"),
        ({"data": "a"}, "data"),
    ],
)
def test_payload_that_cannot_be_is_refused_by_field(job: dict[str, Any], word: str) -> None:
    if job and "url" not in job:
        job = {"url": "http://example.org/", **job}
    outcome = run_handler("http", job, imports=[PLUGIN], max_attempts=2)
    assert outcome.failure is not None
    assert (outcome.failure.kind, outcome.will_retry) == (FailureKind.REJECTED, False)
    assert re.search(re.escape(word), outcome.failure.message)
    assert "hush" not in outcome.failure.message


def test_the_code_of_the_readme_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALLOW_VARIABLE, raising=False)
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (code,) = re.findall(r"^```python\n(.*?)^```$", readme, re.MULTILINE | re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
