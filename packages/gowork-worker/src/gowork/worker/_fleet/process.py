"""A runner in a process of its own: starts it, talks to it through a socket pair, and makes events of what it says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Sequence

import msgspec
from google.protobuf.message import DecodeError

from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._desk.events import (
    Event,
    PipeEnded,
    Ponged,
    Progressed,
    Reported,
    RunnerGone,
    RunnerReady,
    RunnerSaid,
)
from gowork.worker._desk.instructions import StartRunner
from gowork.worker._fleet.interpreters import OWN, Interpreter
from gowork.worker._fleet.output import Output, Outputs
from gowork.worker._runner import columns, messages, pipe
from gowork.worker._runner.table import SlotTable, make_shared
from gowork.worker._version import __version__
from gowork.worker.processes import Warden, end_group

#: Seconds to wait for the end of a dead runner's pipe. Its wardens hold the pipe open until they have ended what they
#: guard. A child that the runner forked may hold it open for longer.
_PIPE_END_TIMEOUT = 1.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ProcessRunner:
    """Runs a runner process. Await `run`, which lasts as long as the process."""

    def __init__(
        self,
        start: StartRunner,
        setup: messages.Setup,
        tell: Callable[[Event], None],
        count: Callable[[messages.Counted], None],
        *,
        warden: Warden | None,
        lock_descriptor: int | None = None,
        outputs: Outputs | None = None,
        variables: dict[str, str] | None = None,
        interpreter: Interpreter = OWN,
    ) -> None:
        """Args:
        start: the desk's instruction to start it.
        setup: the first message to it.
        tell: takes its events.
        count: takes what it has counted.
        warden: guards its process group; None without one.
        lock_descriptor: the descriptor that it inherits; None without one.
        outputs: take what it prints; None drops that.
        variables: environment variables that it has besides those of its interpreter.
        interpreter: the Python that runs it.
        """
        self.id = start.runner
        self.name = start.name
        self._start = start
        self._tell = tell
        self._count = count
        self._setup = setup
        self._warden = warden
        self._lock_descriptor = lock_descriptor
        self.variables = variables or {}
        self._interpreter = interpreter
        self._process: asyncio.subprocess.Process | None = None
        self._pipe: _Pipe | None = None
        #: Shared with the process when that is started.
        self._table = SlotTable.private(start.slots, start.spare)
        self._outputs = outputs
        self._pings = 0
        #: Why it was given up, in words; empty when it did nothing wrong; None when it was not ended from here.
        self._fault: str | None = None

    @property
    def executable(self) -> str:
        """The path of its Python."""
        return self._interpreter.executable

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    async def run(self) -> str:
        """Runs the process to its end.

        Returns:
            How it ended, in words.
        """
        with contextlib.ExitStack() as stack:
            ours, output = await self._spawn(stack)
            stack.pop_all()
        return await self._watch_over(ours, output)

    async def _spawn(self, stack: contextlib.ExitStack) -> tuple[socket.socket, Output | None]:
        """Starts the process.

        Args:
            stack: closes this end of the pipe if the process is not started.

        Raises:
            OSError: when the system has no descriptors, processes or memory left.
        """
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        lock = [] if self._lock_descriptor is None else [self._lock_descriptor]
        # The process has copies of these descriptors afterwards.
        with contextlib.ExitStack() as handed, theirs:
            self._table, table = make_shared(self._start.slots, self._start.spare)
            handed.callback(os.close, table)
            output, printed = None, asyncio.subprocess.DEVNULL
            if self._outputs is not None:
                output, printed = await self._outputs.open()
                handed.callback(os.close, printed)
            self._process = await asyncio.create_subprocess_exec(
                self._interpreter.executable,
                # Not with the working directory on the module path: a file there could replace a library's module.
                "-P",
                "-m",
                "gowork.worker._runner",
                str(theirs.fileno()),
                str(table),
                str(os.getpid()),
                *map(str, lock),
                pass_fds=(theirs.fileno(), table, *lock),
                env={**self._interpreter.variables(), **self.variables},
                stdin=asyncio.subprocess.DEVNULL,
                # Not the worker's own: what handlers print must not mix with what the worker says on standard output,
                # and must not wait for whoever reads the worker's standard error.
                stdout=printed,
                stderr=printed,
                # A group of its own is ended with all children, and does not get the terminal's Ctrl-C.
                start_new_session=True,
            )
        return ours, output

    async def _watch_over(self, ours: socket.socket, output: Output | None) -> str:
        assert self._process is not None
        pid = self._process.pid
        try:
            if self._warden is not None:
                self._warden.guard(pid)
            _, self._pipe = await asyncio.get_running_loop().create_connection(lambda: _Pipe(self), sock=ours)
            self.send(self._setup)
            oom_kills = _oom_kills()
            code = await self._process.wait()
        finally:
            # Also when this asyncio task is cancelled: neither the process nor a child of it may be left.
            end_group(pid)
            if self._process.returncode is None:
                await asyncio.shield(self._process.wait())
            if self._warden is not None:
                self._warden.release(pid)
            self._tell(RunnerGone(self.id))
            if self._pipe is not None:
                await self._pipe.drained(_PIPE_END_TIMEOUT)
            if output is not None:
                await output.drained()
        reason = self._fault or describe_exit(code)
        if code == -signal.SIGKILL and self._fault is None and _oom_kills() > oom_kills:
            reason += "; the kernel ran out of memory and ended processes meanwhile"
        return reason

    def start_tasks(self, grants: Sequence[session.Grant]) -> None:
        self._write(pipe.WORK, session.ConnectResponse(grants=grants).SerializeToString())

    def cancel_tasks(self, fences: Sequence[int]) -> None:
        self._write(pipe.WORK, session.ConnectResponse(cancelled=fences).SerializeToString())

    def send(self, message: messages.ToRunner) -> None:
        self._write(pipe.CONTROL, messages.encode(message))

    def ping(self) -> None:
        self._pings += 1
        self._write(pipe.WORK, session.ConnectResponse(pings=[self._pings]).SerializeToString())

    def end(self, fault: str) -> None:
        if self._process is not None and self._process.returncode is None:
            self._fault = self._fault or fault
            end_group(self._process.pid)

    @property
    def ticks(self) -> int:
        return self._table.ticks

    def running(self) -> list[messages.Running]:
        return self._table.running()

    def begun(self) -> set[int]:
        return self._table.begun()

    def close(self) -> None:
        """Gives the shared memory back. Call it when `begun` has been read."""
        self._table.close()

    def _write(self, kind: int, body: bytes) -> None:
        if self._pipe is not None:
            self._pipe.write(pipe.frame(kind, body))

    def take(self, kind: int, body: memoryview) -> None:
        """Takes a frame from the runner."""
        if kind == pipe.WORK:
            request = session.ConnectRequest.FromString(bytes(body))
            reports, completions = request.reports, request.completions
            if reports or completions:
                checked = [columns.check(each) for each in completions] if completions else ()
                self._tell(Reported(self.id, list(reports), len(body), checked))
            if request.progress:
                self._tell(Progressed(request.progress))
            if request.pongs:
                self._tell(Ponged(self.id, _memory_bytes(self.pid)))
            return
        message = messages.decode_from_runner(body)
        if isinstance(message, messages.Ready):
            if self._interpreter.environment and message.version != __version__:
                # Somebody has installed another one in its environment since the worker has started.
                self.end(f"it has gowork-worker {message.version or '(unknown)'}, and the worker is {__version__}")
                return
            self._tell(RunnerReady(self.id, message))
        elif isinstance(message, messages.Counted):
            self._count(message)
        else:
            self._tell(RunnerSaid(self.id, message))

    def pipe_ended(self) -> None:
        """The runner has closed its end of the pipe."""
        self._tell(PipeEnded(self.id))

    def pipe_broken(self, error: Exception) -> None:
        """The runner has sent bytes that are no frame. Handlers that write to descriptors at random can cause that."""
        self.end(f"the runner sent what cannot be read: {error}")
        self._tell(RunnerGone(self.id))


class _Pipe(asyncio.Protocol):
    def __init__(self, runner: ProcessRunner) -> None:
        self._runner = runner
        self._reader = pipe.FrameReader(runner.take)
        self._transport: asyncio.Transport | None = None
        self._ended = asyncio.get_running_loop().create_future()

    # asyncio.Protocol's own annotation is wider: the transport of a socket reads and writes. Its class cannot be
    # checked, because that of uvloop does not derive from asyncio.Transport.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
        except (pipe.FrameError, DecodeError, columns.ColumnsError, msgspec.MsgspecError) as error:
            self._runner.pipe_broken(error)

    def connection_lost(self, exc: Exception | None) -> None:
        self._runner.pipe_ended()
        if not self._ended.done():
            self._ended.set_result(None)

    def write(self, data: bytes) -> None:
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.write(data)

    async def drained(self, timeout: float) -> None:
        """Waits until everything that the runner sent has been read."""
        assert self._transport is not None
        await asyncio.wait([self._ended], timeout=timeout)
        self._transport.close()


def _memory_bytes(pid: int | None) -> int:
    """Returns how much memory a process takes by itself; 0 where the kernel does not say, as on macOS."""
    try:
        # https://docs.kernel.org/filesystems/proc.html: the second number is that of resident pages.
        with open(f"/proc/{pid}/statm", encoding="ascii") as sizes:
            return int(sizes.read().split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0


def _oom_kills() -> int:
    """Returns how many processes the kernel has killed because memory ran out; 0 where it does not say."""
    try:
        with open("/proc/vmstat", encoding="ascii") as counters:
            return next((int(line.split()[1]) for line in counters if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0


def describe_exit(code: int) -> str:
    """Returns how a process ended, in words."""
    if code == messages.DESCRIPTORS_LOST_EXIT:
        return "a handler closed descriptors that are the runner's own"
    if code >= 0:
        return f"the runner exited with code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = "unknown"
    return f"the runner was killed by signal {-code} ({name})"
