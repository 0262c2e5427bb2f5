"""Calls the agent of Amazon ECS, which answers every container of a task over HTTP on its machine.

The agent is not trusted: its answers are bounded in time and size, however slowly they come, and are checked.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from urllib.parse import urlsplit

#: How long a call may take in all, in seconds.
CALL_SECONDS = 5.0
#: The longest answer that is read. The agent's are below 10 KiB.
ANSWER_BYTES_MAX = 256 << 10
#: How much of an answer, or of an error's text, is told.
TOLD_MAX = 300


class AgentError(Exception):
    """The agent did not do what it was asked, or its answer can't be read. The text says why."""


def ask(
    uri: str, path: str, *, body: dict[str, object] | None = None, seconds: float = CALL_SECONDS
) -> tuple[int, dict[str, object]]:
    """Calls the agent, and blocks meanwhile.

    Args:
        uri: the agent's address, from the environment: http://HOST[:PORT]/PREFIX.
        path: what is asked, below that address.
        body: sent with PUT; None: it is a GET.
        seconds: how long the call may take in all.

    Returns:
        The HTTP status, and the object of JSON in the answer.

    Raises:
        AgentError: there is no such answer in time.
    """
    try:
        place = urlsplit(uri)
        host, port = place.hostname, place.port
    except ValueError as error:
        raise AgentError(f"{uri[:TOLD_MAX]!r} is no address: {error}") from None
    if place.scheme != "http" or not host:
        raise AgentError(f"{uri[:TOLD_MAX]!r} is no address: it must begin with http://")
    call = _Call(host, port, seconds)
    headers = {"Connection": "close"} | ({"Content-Type": "application/json"} if body is not None else {})
    data = None if body is None else json.dumps(body)
    try:
        status, answer = call.make("GET" if body is None else "PUT", place.path.rstrip("/") + path, data, headers)
    except (OSError, http.client.HTTPException, ValueError) as error:
        late = call.is_cut or isinstance(error, TimeoutError)
        raise AgentError(_late(seconds) if late else _words(error)) from None
    if call.is_cut:
        raise AgentError(_late(seconds))
    return status, _object(answer)


class _Call:
    """One call. Another thread ends it when its time is over, because the time-out of a socket begins anew with each
    byte.
    """

    def __init__(self, host: str, port: int | None, seconds: float) -> None:
        self._connection = http.client.HTTPConnection(host, port, timeout=seconds)
        self._seconds = seconds
        self._socket: socket.socket | None = None
        #: Whether its time was over before it had ended.
        self.is_cut = False

    def make(self, method: str, path: str, data: str | None, headers: dict[str, str]) -> tuple[int, bytes]:
        """Returns the status, and the answer up to a little more than its most.

        Raises:
            OSError, http.client.HTTPException, ValueError: there is none.
        """
        timer = threading.Timer(self._seconds, self._cut)
        timer.daemon = True
        timer.start()
        try:
            self._connection.connect()
            # http.client forgets it with the first line of the answer.
            self._socket = self._connection.sock
            if self.is_cut:
                raise TimeoutError
            self._connection.request(method, path, data, headers)
            with contextlib.closing(self._connection.getresponse()) as response:
                return response.status, response.read(ANSWER_BYTES_MAX + 1)
        finally:
            timer.cancel()
            self._connection.close()

    def _cut(self) -> None:
        self.is_cut = True
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


def _object(answer: bytes) -> dict[str, object]:
    if len(answer) > ANSWER_BYTES_MAX:
        raise AgentError(f"its answer has more than {ANSWER_BYTES_MAX} bytes")
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise AgentError(f"its answer is no object of JSON: {answer[:TOLD_MAX]!r}")
    return found


def _late(seconds: float) -> str:
    return f"no whole answer within {seconds:g} s"


def _words(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:TOLD_MAX]
