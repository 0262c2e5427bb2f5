"""Runs one container by the engine's command line, and removes it: on cancel, at its end, and when the runner dies.

The engine's command starts behind a gate: a shell that reads one line and then becomes the command. Before the line is
sent, a keeper is there: a shell that waits for the end of its input, and then ends the command and removes the
container. Its input ends when the runner dies. So there is no moment at which a container runs that nobody removes.
A keeper also holds the warden's pipe open. So the runner's tasks are granted again only when their containers are gone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import tempfile
import threading
from typing import cast

from gowork.worker.processes import Warden, end_group, settle_signals
from gowork_plugin_container.output import Output

#: `read` reads a pipe byte by byte, so that it leaves everything after the first line to the container.
_GATE = 'read -r line || exit 125; exec "$@"'
#: The arguments: the group of the engine's command, seconds, and what removes the container. A line "done" means that
#: there is nothing left to remove. Signals that a service manager sends to all of a worker's processes are ignored.
#: It ends with its group, because `sleep` is in it.
_KEEPER = """\
trap '' TERM INT HUP
group=$1 seconds=$2
shift 2
read -r line && exit 0
kill -KILL "-$group" 2>/dev/null
"$@" >/dev/null 2>&1 </dev/null &
removing=$!
(sleep "$seconds"; kill -KILL 0) >/dev/null 2>&1 &
wait "$removing"
kill -KILL 0
"""
#: Where the engine's commands run: podman's helper leaves a file "oom" there when a container needs too much memory.
FOLDER = tempfile.gettempdir()
#: Seconds between SIGTERM and SIGKILL for what runs in the container.
STOP_SECONDS = 2
#: Seconds that the engine may take to stop or to remove a container.
ENGINE_SECONDS = 20.0
#: Seconds for the engine's command to end when its container has been stopped.
_EXIT_SECONDS = 1.0
#: Seconds to wait for the end of the engine's command that was killed, and for its last output.
_OUTPUT_SECONDS = 5.0


class Engine:
    """The engine's command, for all containers of one runner."""

    def __init__(self, command: str) -> None:
        self.command = command
        #: It is started with the first container, because most runners never run one.
        self._warden: Warden | None = None

    @property
    def warden(self) -> Warden:
        """What ends the commands if this process dies, and outlives the keepers."""
        if self._warden is None:
            self._warden = Warden()
        return self._warden

    def close(self) -> None:
        """Ends the warden."""
        if self._warden is not None:
            self._warden.close()


class Run(asyncio.SubprocessProtocol):
    """One run of a container. Await `run`, then read the outputs."""

    def __init__(self, engine: Engine, name: str, output_bytes_max: int) -> None:
        loop = asyncio.get_running_loop()
        self.stdout = Output("stdout", output_bytes_max)
        self.stderr = Output("stderr", output_bytes_max)
        self._engine = engine
        self._name = name
        self._exited: asyncio.Future[None] = loop.create_future()
        self._closed: asyncio.Future[None] = loop.create_future()

    async def run(self, options: list[str], stdin: bytes) -> int:
        """Runs the container to its end. If this asyncio task is cancelled, it stops and removes the container first.

        Args:
            options: what follows the engine's `run`: options, image and arguments.
            stdin: the container's standard input.

        Returns:
            The exit code of the engine's command.

        Raises:
            OSError: when the command cannot be started.
        """
        loop = asyncio.get_running_loop()
        if threading.current_thread() is threading.main_thread():
            # Another handler of this process may have ignored SIGCHLD, and the exit code would be lost.
            settle_signals()
        command = [self._engine.command, "run", "--rm", f"--name={self._name}", *options]
        transport, _ = await loop.subprocess_exec(
            lambda: self, "/bin/sh", "-c", _GATE, "sh", *command, cwd=FOLDER, start_new_session=True
        )
        group = transport.get_pid()
        keeper = None
        try:
            self._engine.warden.guard(group)
            keeper = self._keep(group)
            # The class is not checked, because with runners=0 the loop and its transports are the program's own.
            pipe = cast("asyncio.WriteTransport", transport.get_pipe_transport(0))
            pipe.write(b"\n" + stdin)
            pipe.write_eof()
            await asyncio.shield(self._exited)
        finally:
            if not self._exited.done():
                await self._stop(group)
            end_group(group)
            await asyncio.wait([self._exited, self._closed], timeout=_OUTPUT_SECONDS)
            if (transport.get_returncode() or 0) < 0:
                # Somebody has killed the command, and not the container.
                await self._call("rm", "--force")
            self._engine.warden.release(group)
            if keeper is not None:
                keeper.communicate(b"done\n")
            transport.close()
            self.stdout.end()
            self.stderr.end()
        code = transport.get_returncode()
        assert code is not None
        return code

    def _keep(self, group: int) -> subprocess.Popen[bytes]:
        """Starts the keeper."""
        removal = [self._engine.command, "rm", "--force", self._name]
        return subprocess.Popen(
            ["/bin/sh", "-c", _KEEPER, "sh", str(group), f"{ENGINE_SECONDS:g}", *removal],
            stdin=subprocess.PIPE,
            # It writes nothing there: it keeps the warden's input open. The engine may leave processes behind, and does
            # not inherit it.
            stdout=self._engine.warden.descriptor,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    async def _stop(self, group: int) -> None:
        """Stops the container. If its command does not end by that, as while it pulls the image, it is ended too."""
        await self._call("stop", "-t", str(STOP_SECONDS))
        await asyncio.wait([self._exited], timeout=_EXIT_SECONDS)
        if not self._exited.done():
            end_group(group)

    async def _call(self, *words: str) -> None:
        process = await asyncio.create_subprocess_exec(
            self._engine.command,
            *words,
            self._name,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(ENGINE_SECONDS):
                await process.wait()
        except TimeoutError:
            pass
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        (self.stdout if fd == 1 else self.stderr).feed(data)

    def process_exited(self) -> None:
        if not self._exited.done():
            self._exited.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._closed.done():
            self._closed.set_result(None)
