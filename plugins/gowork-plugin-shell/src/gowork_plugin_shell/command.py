"""Runs one command in a process group of its own, and ends the whole group: on cancel, when the command ends, and when
the runner dies.

The command starts behind a gate: a shell that reads one line and then becomes the command. The line is sent when the
warden knows the group. If the runner dies before that, the gate reads the end of the file and exits. So the warden can
end the command from the moment it runs.
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

#: `read` reads a pipe byte by byte, so that it leaves everything after the first line to the command.
_GATE = 'umask {umask:o}; read -r line || exit 125; exec "$@"'
#: Seconds between SIGTERM and SIGKILL. It is less than a handler's grace, after which the whole runner is ended.
TERM_GRACE = 2.0
#: Seconds to wait for the end of a killed group, and for its last output.
_OUTPUT_TIMEOUT = 2.0


class Command(asyncio.SubprocessProtocol):
    """One run of a command. Await `run`, then read the outputs."""

    def __init__(self, output_bytes_max: int) -> None:
        loop = asyncio.get_running_loop()
        self.stdout = Output(output_bytes_max)
        self.stderr = Output(output_bytes_max)
        self._exited: asyncio.Future[None] = loop.create_future()
        self._closed: asyncio.Future[None] = loop.create_future()

    async def run(
        self, arguments: list[str], *, stdin: bytes, env: Mapping[str, str], cwd: str | None, umask: int, warden: Warden
    ) -> int:
        """Runs the command to its end. If this asyncio task is cancelled, it ends the command's group first.

        Args:
            arguments: the program and its arguments.
            stdin: the command's standard input.
            env: variables that are added to this process's environment.
            cwd: the working directory; None for this process's own.
            umask: the command's file mode mask.
            warden: what ends the group if this process dies.

        Returns:
            The exit code; the negative number of the signal if a signal ended the command.

        Raises:
            OSError: when the command cannot be started.
        """
        loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            # Another handler of this process may have ignored SIGCHLD, and the exit code would be lost.
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
            # The class is not checked, because with runners=0 the loop and its transports are the program's own.
            pipe = cast("asyncio.WriteTransport", transport.get_pipe_transport(0))
            pipe.write(b"\n" + stdin)
            pipe.write_eof()
            await asyncio.shield(self._exited)
        finally:
            if not self._exited.done():
                end_group(group, signal.SIGTERM)
                await asyncio.wait([self._exited], timeout=TERM_GRACE)
            # This kills processes that the command left behind, or that ignored the signal.
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
