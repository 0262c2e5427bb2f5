"""A proxy between a log and its server, which tests cut and hold up."""

from __future__ import annotations

import asyncio
from pathlib import Path

from gowork.base.channels import parse_address


class TcpProxy:
    """Listens on loopback, and passes bytes on to a server.

    Args:
        server: a socket in the file system, or HOST:PORT.

    Attributes:
        passes_requests, passes_answers: an event each, which is set while bytes go on in this direction.
    """

    def __init__(self, server: Path | str) -> None:
        self._server = server
        self.passes_requests = asyncio.Event()
        self.passes_answers = asyncio.Event()
        self.heal()
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None

    async def __aenter__(self) -> TcpProxy:
        self._listener = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._listener is not None
        self._listener.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def host(self) -> str:
        """Where it listens."""
        assert self._listener is not None
        address, port = self._listener.sockets[0].getsockname()
        return f"{address}:{port}"

    def stall(self) -> None:
        """Holds up all bytes, as a network does that drops packets."""
        self.passes_requests.clear()
        self.passes_answers.clear()

    def heal(self) -> None:
        """Lets all bytes through."""
        self.passes_requests.set()
        self.passes_answers.set()

    def cut(self) -> None:
        """Breaks all connections."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if isinstance(self._server, Path):
                server_reader, server_writer = await asyncio.open_unix_connection(self._server)
            else:
                server_reader, server_writer = await asyncio.open_connection(*parse_address(self._server))
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, server_writer}
        for source, target, passes in (
            (reader, server_writer, self.passes_requests),
            (server_reader, writer, self.passes_answers),
        ):
            task = asyncio.get_running_loop().create_task(_pump(source, target, passes))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter, passes: asyncio.Event) -> None:
    try:
        while data := await source.read(1 << 16):
            await passes.wait()
            target.write(data)
            await target.drain()
    except OSError:
        pass
    finally:
        target.transport.abort()
