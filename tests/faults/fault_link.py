"""A link between a worker and its leader that can be cut silently: sockets stay open, but no bytes arrive."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Self

_CHUNK_BYTES = 1 << 16


@dataclass
class _End:
    """One end of a connection: bytes that come in here go out at the other end."""

    connection: socket.socket
    other: socket.socket
    #: "up" from the worker, "down" from the leader.
    way: str


class Link:
    """A context manager in which a thread forwards bytes between workers and the target."""

    def __init__(self, target: str) -> None:
        """`target` is HOST:PORT, or the path of a socket."""
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._selector = selectors.DefaultSelector()
        self._waker, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="link")
        self._lock = threading.Lock()
        self._cut: frozenset[str] = frozenset()
        self._ends: list[_End] = []
        self._stuck: list[socket.socket] = []
        self._closed = False

    @property
    def address(self) -> str:
        """Where the worker finds its leader."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self, *ways: str) -> None:
        """Stops all bytes of these ways ("up", "down"), on connections that are there and on new ones."""
        self._set(frozenset(ways))

    def cut_what_is_there(self) -> None:
        """Stops all bytes on the connections that are there; new connections work."""
        with self._lock:
            for end in self._ends:
                self._selector.unregister(end.connection)
            # Their sockets stay open, but nothing reads them any more.
            self._stuck += [end.connection for end in self._ends]
            self._ends = []
        self._waker.send(b"x")

    def heal(self) -> None:
        """Lets everything through again, including the bytes that were held up."""
        self._set(frozenset())

    def __enter__(self) -> Self:
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed = True
        self._waker.send(b"x")
        self._thread.join()
        self._selector.close()
        for end in self._ends:
            end.connection.close()
        for open_socket in (*self._stuck, self._listener, self._waker, self._woken):
            open_socket.close()

    def _set(self, cut: frozenset[str]) -> None:
        with self._lock:
            self._cut = cut
            for end in self._ends:
                self._watch(end)
        self._waker.send(b"x")

    def _watch(self, end: _End) -> None:
        """Reads from this end unless its way is cut; then the sender's buffers fill up, and it gets no error."""
        registered = end.connection in self._selector.get_map()
        if end.way in self._cut and registered:
            self._selector.unregister(end.connection)
        elif end.way not in self._cut and not registered:
            self._selector.register(end.connection, selectors.EVENT_READ, end)

    def _run(self) -> None:
        while not self._closed:
            ready = self._selector.select()
            with self._lock:
                for key, _ in ready:
                    if key.fileobj is self._listener:
                        self._accept()
                    elif key.fileobj is self._woken:
                        self._woken.recv(_CHUNK_BYTES)
                    elif key.data.way not in self._cut:
                        self._forward(key.data)

    def _accept(self) -> None:
        worker, _ = self._listener.accept()
        try:
            leader = self._connected()
        except OSError:
            worker.close()
            return
        for end in (_End(worker, leader, "up"), _End(leader, worker, "down")):
            self._ends.append(end)
            self._watch(end)

    def _connected(self) -> socket.socket:
        if self._target.startswith("/"):
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(self._target)
            except OSError:
                connection.close()
                raise
            return connection
        host, port = self._target.rsplit(":", 1)
        return socket.create_connection((host, int(port)))

    def _forward(self, end: _End) -> None:
        try:
            data = end.connection.recv(_CHUNK_BYTES)
            if data:
                end.other.sendall(data)
                return
        except OSError:
            pass
        for gone in [each for each in self._ends if each.connection in (end.connection, end.other)]:
            self._ends.remove(gone)
            if gone.connection in self._selector.get_map():
                self._selector.unregister(gone.connection)
            gone.connection.close()


@contextmanager
def link_to(target: str) -> Iterator[Link]:
    """Yields a link to this address."""
    with Link(target) as link:
        yield link
