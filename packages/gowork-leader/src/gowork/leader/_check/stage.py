"""Where scenes take place: the scripted leader, the worker's process if the check starts it, and the findings."""

from __future__ import annotations

import asyncio
import itertools
import os
import secrets
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from gowork.leader._check.rules import Findings
from gowork.leader._check.scripted import ScriptedLeader, Stream
from gowork.proto.scheduler.v1 import scheduler_pb2
from gowork.proto.worker.v1 import session_pb2 as pb

#: The times that the worker is told in its Welcome, in milliseconds. They are short, so that a check takes seconds.
LEASE_MS = 3_000
HEARTBEAT_MS = 500
RECONNECT_GRACE_MS = 1_000
#: The term of the leader that is played.
TERM = 7
#: Stands for the leader's address in the worker's command.
PLACEHOLDER = "{leader}"
#: How long the worker's process has to end after SIGTERM, in seconds.
_STOP_SECONDS = 10.0


class SceneOver(Exception):
    """Nothing more can be tried in this scene; the text says why."""


@dataclass(frozen=True, slots=True)
class Script:
    """The names and times that the scenes use."""

    #: Names of two handlers of the worker. The first returns its payload. The second waits for as many milliseconds as
    #: its payload says and can be stopped; the worker may lack it.
    echo: str = "echo"
    sleep: str = "sleep"
    #: How long the worker has for each thing that it must do, in seconds.
    patience: float = 10.0
    #: How long the worker has to connect at first, in seconds.
    first_patience: float = 60.0


class Stage:
    """One check of one worker."""

    def __init__(self, leader: ScriptedLeader, script: Script, command: Sequence[str]) -> None:
        """Args:
        leader: the scripted leader, which serves.
        script: the names and times that the scenes use.
        command: the command that starts the worker; empty when somebody else starts it.
        """
        self.leader = leader
        self.script = script
        self.findings = Findings()
        self.process: asyncio.subprocess.Process | None = None
        self._command = [part.replace(PLACEHOLDER, leader.address) for part in command]
        self._fences = itertools.count(1)
        #: Begins the ids of this check's tasks, because the worker may remember those of an earlier check.
        self._prefix = secrets.token_hex(3)
        self._patience = max(script.first_patience, script.patience)
        #: Streams of this scene.
        self._reads_completions = False
        self._streams: list[Stream] = []
        #: Whether the worker has the handler `script.sleep`; True until its first Hello.
        self.sleeps = True

    async def session(self, *, term: int = TERM) -> Stream:
        """Ends the older sessions, waits until the worker reconnects, welcomes it, and returns the new stream.

        Releases the tasks that the worker lists as held, which earlier scenes have left.

        Raises:
            SceneOver: the worker does not reconnect.
        """
        stream = await self.arrival()
        self.welcome(stream, term=term)
        left = [held.fence for held in stream.hello.held]
        if left:
            stream.send(pb.ConnectResponse(released=left))
        return stream

    async def arrival(self) -> Stream:
        """Ends the open streams and returns the worker's next one, with its Hello. It is not welcomed yet.

        Raises:
            SceneOver: no stream comes.
        """
        for stream in list(self.leader.open):
            stream.end(grpc.StatusCode.UNAVAILABLE, "the leader of the check breaks the stream")
            await stream.until(lambda stream=stream: stream.over, self.script.patience)  # type: ignore[misc]
        return await self.next_stream()

    async def next_stream(self) -> Stream:
        """Returns the worker's next stream, with its Hello. Ends no other stream; otherwise as `arrival`."""
        await self._run_worker()
        waiting = asyncio.create_task(self.leader.stream(self._patience), name="the next stream")
        ending = asyncio.create_task(self._ended(), name="the worker's end")
        await asyncio.wait([waiting, ending], return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if not waiting.done():
            waiting.cancel()
        stream = await asyncio.gather(waiting, return_exceptions=True)
        for rule, fault in self.leader.faults:
            self.findings.failed(rule, fault)
        if not isinstance(stream[0], Stream):
            code = None if self.process is None else self.process.returncode
            if code is not None:
                raise SceneOver(f"the worker ended, with exit code {code}")
            raise SceneOver(f"no stream came within {self._patience:g} s")
        self._patience = self.script.patience
        self.findings.passed("hello-first")
        self.findings.passed("hello-valid")
        self._streams.append(stream[0])
        self.sleeps = any(handler.name == self.script.sleep for handler in stream[0].hello.handlers)
        return stream[0]

    def look_at_streams(self) -> None:
        """Notes, at the end of a scene, whether all of its frames were valid."""
        streams, self._streams = self._streams, []
        for stream in streams:
            for fault in stream.faults:
                self.findings.failed("frames-valid", fault)
        if streams:
            self.findings.passed("frames-valid")

    def welcome(self, stream: Stream, *, term: int = TERM) -> None:
        """Opens the session. Every other one lets reports come by columns."""
        self._reads_completions = not self._reads_completions
        stream.send(
            pb.ConnectResponse(
                welcome=pb.Welcome(
                    term=term,
                    lease_ms=LEASE_MS,
                    heartbeat_ms=HEARTBEAT_MS,
                    reconnect_grace_ms=RECONNECT_GRACE_MS,
                    reads_completions=self._reads_completions,
                    heeds_queues=True,
                    heeds_unique_keys=True,
                    heeds_on_lost=True,
                    keeps_checkpoints=True,
                    heeds_continuations=True,
                )
            )
        )

    def echo(self, payload: str) -> pb.Grant:
        """Returns a grant of a task that returns its payload."""
        return self._grant(self.script.echo, payload)

    def sleep(self, milliseconds: int) -> pb.Grant:
        """Returns a grant of a task that takes `milliseconds`."""
        return self._grant(self.script.sleep, str(milliseconds))

    def _grant(self, handler: str, payload: str) -> pb.Grant:
        fence = next(self._fences)
        task = scheduler_pb2.Task(id=f"check-{self._prefix}-{fence}", handler=handler, payload=payload)
        return pb.Grant(fence=fence, id=task.id, attempt=1, task=task.SerializeToString())

    async def need_room(self, stream: Stream, rule: str = "") -> None:
        """Waits until the worker's credit has room for a grant.

        Args:
            stream: the worker's session.
            rule: the rule that the worker breaks when it gives no credit; empty when the scene does not try that.

        Raises:
            SceneOver: the credit has no room in time.
        """
        if not await stream.until(lambda: stream.room > 0, self.script.patience):
            count = f"is {stream.credit[-1]}" if stream.credit else "was not given"
            why = f"after {stream.granted} grants in this session the credit {count}"
            if rule:
                self.findings.failed(rule, why)
            raise SceneOver(why)

    # The worker's process

    async def _run_worker(self) -> None:
        if not self._command or (self.process is not None and self.process.returncode is None):
            return
        try:
            self.process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                # The worker's output must not get into the check's.
                stdout=sys.__stderr__.fileno() if sys.__stderr__ is not None else asyncio.subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise SceneOver(f"{self._command[0]!r} can't be started: {error}") from None

    async def _ended(self) -> None:
        if self.process is None:
            await asyncio.Event().wait()
        else:
            await self.process.wait()

    async def stop_worker(self) -> None:
        """Ends the worker's process and all that it has started, if the check has started it."""
        process = self.process
        if process is None:
            return
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(_STOP_SECONDS):
                    await process.wait()
            except TimeoutError:
                pass
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass  # The whole group has ended.
        await process.wait()
