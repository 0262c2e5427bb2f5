"""Runs one command in a process group of its own, which is ended as a whole: on cancel, at the end, and when the
runner dies.

The command starts behind a gate: a shell that reads one line and then becomes the command. The line is sent once the
warden knows the group; if the runner dies before that, the gate reads the end of file and gives up. So there is no
moment in which a command runs that nobody would end.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Mapping
from typing import cast

from gowork.worker.processes import Warden, end_group, settle_signals
from gowork_plugin_shell.output import Output

#: `read` takes a pipe's bytes one by one, so that all after the first line are the command's.
_GATE = 'umask {umask:o}; read -r line || exit 125; exec "$@"'
#: Seconds between SIGTERM and SIGKILL. Less than a handler's grace, after which the whole runner would be ended.
TERM_GRACE = 2.0
#: Seconds to wait for the last output of a group that has been killed.
_OUTPUT_TIMEOUT = 2.0


class Command(asyncio.SubprocessProtocol):
    """One run. Await `run`, then read the outputs."""

    def __init__(self, output_bytes_max: int) -> None:
        loop = asyncio.get_running_loop()
        self.stdout = Output(output_bytes_max)
        self.stderr = Output(output_bytes_max)
        self._exited: asyncio.Future[None] = loop.create_future()
        self._closed: asyncio.Future[None] = loop.create_future()

    async def run(
        self, arguments: list[str], *, stdin: bytes, env: Mapping[str, str], cwd: str | None, umask: int, warden: Warden
    ) -> int:
        """Runs the command to its end. When cancelled, ends its group first.

        Returns:
            The exit code; negative: the number of the signal that ended it.

        Raises:
            OSError: when it cannot be started.
        """
        loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            # Another handler of this process may have ignored SIGCHLD since: then the exit code would be lost.
            settle_signals()
        transport, _ = await loop.subprocess_exec(
            lambda: self,
            "/bin/sh",
            "-c",
            _GATE.format(umask=umask),
            "sh",
            *arguments,
            env={**os.environ, **env},
            cwd=cwd,
            start_new_session=True,
        )
        group = transport.get_pid()
        try:
            warden.guard(group)
            # Not checked: with runners=0 the loop is the program's own, and so are the classes of its transports.
            pipe = cast("asyncio.WriteTransport", transport.get_pipe_transport(0))
            pipe.write(b"\n" + stdin)
            pipe.write_eof()
            await asyncio.shield(self._exited)
        finally:
            if not self._exited.done():
                end_group(group, signal.SIGTERM)
                await asyncio.wait([self._exited], timeout=TERM_GRACE)
            # What the command has left behind, or what did not heed the signal.
            end_group(group)
            await asyncio.wait([self._exited, self._closed], timeout=_OUTPUT_TIMEOUT)
            warden.release(group)
            transport.close()
        code = transport.get_returncode()
        assert code is not None
        return code

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        (self.stdout if fd == 1 else self.stderr).feed(data)

    def process_exited(self) -> None:
        if not self._exited.done():
            self._exited.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closed.done():
            self._closed.set_result(None)
