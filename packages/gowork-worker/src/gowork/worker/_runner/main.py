"""A runner process: it loads the plugins, runs the tasks that its supervisor sends, and never outlives it.

It ends with its supervisor by two means: the kernel's parent-death signal where there is one, and the end of file on
the pipe, at which it ends its whole process group.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine, Iterable
from contextlib import AsyncExitStack
from dataclasses import replace
from io import TextIOWrapper
from typing import Any, TypeVar, cast

from gowork.base import process_state
from gowork.base.telemetry import Telemetry, TelemetryError, start
from gowork.proto.limits import HANDLER_DESCRIPTION_BYTES_MAX
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._core import lifespans, logs, plugins, references, runner_hooks
from gowork.worker._core.context import Place
from gowork.worker._core.descriptions import describe
from gowork.worker._core.encryption_options import EncryptionOptions
from gowork.worker._core.selection import Selection
from gowork.worker._runner import forks, messages, pipe, pulse
from gowork.worker._runner.clock import ClockedLoop
from gowork.worker._runner.columns import pack
from gowork.worker._runner.completion import AttemptReport
from gowork.worker._runner.declarations import schedule_bytes
from gowork.worker._runner.descriptors import OwnDescriptors, open_descriptors
from gowork.worker._runner.encrypting import Encrypting
from gowork.worker._runner.exceptions import type_name
from gowork.worker._runner.executor import Executor
from gowork.worker._runner.loading import Loading
from gowork.worker._runner.outbox import Outbox
from gowork.worker._runner.settings import settings_of
from gowork.worker._runner.settings_seldom import seldom_settings
from gowork.worker._runner.table import SlotTable
from gowork.worker._runner.upkeep import Upkeep
from gowork.worker._version import __version__
from gowork.worker.processes import die_with_parent, hold_until_ended

logger = logging.getLogger("gowork.worker.runner")
T = TypeVar("T")

#: How often the loop may be broken off before it has run all that waited at the first break.
BREAKS_MAX = 1000
#: Seconds after which a busy thread gives way. With Python's own 5 ms the loop, which feeds the threads and reports,
#: would wait that long each time.
_SWITCH_INTERVAL = 0.001


def main() -> None:
    """Runs until the supervisor says Stop or goes away."""
    process_state.settle()
    descriptor, table = int(sys.argv[1]), int(sys.argv[2])
    die_with_parent(int(sys.argv[3]))
    # The end of the pipe tells the supervisor that all that ran here has ended, and the free lock tells a successor.
    # So processes that handlers start hold neither. Their wardens do, until they have ended what they guard.
    held = (descriptor, *map(int, sys.argv[4:]))
    for each in held:
        hold_until_ended(each)
    # The supervisor decides when its runners end. SIG_IGN is not used, because handlers' child processes inherit it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    references.enter_runner()
    # Standard output is a pipe. Its lines leave at once, so that none is lost when a handler ends the process.
    cast("TextIOWrapper", sys.stdout).reconfigure(line_buffering=True)
    sys.setswitchinterval(_SWITCH_INTERVAL)
    others = open_descriptors()
    with socket.socket(fileno=descriptor) as connection:
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            loop = runner.get_loop()
            # The descriptors that the loop has opened for itself are among them.
            numbers = {*held, *(open_descriptors() - others)}
            own = OwnDescriptors(numbers)
            forks.watch(numbers, loop)
            telemetry = run_to_the_end(loop, _run(connection, table, own), own.intact)
        if telemetry is not None:
            telemetry.stop()


def _new_loop() -> asyncio.AbstractEventLoop:
    return ClockedLoop(forks.ForkedSelector())


def run_to_the_end(
    loop: asyncio.AbstractEventLoop,
    work: Coroutine[Any, Any, T],
    intact: Callable[[], bool],
    end: Callable[[], None] | None = None,
) -> T:
    """Runs the loop until `work` has ended, and returns its result. The loop goes on when a handler stops it or raises
    through it (loop.stop, SystemExit in a callback, a signal handler that raises).

    When it is broken off more than BREAKS_MAX times and gets no further, a handler has damaged the loop itself, and the
    process is ended.

    Args:
        loop: the runner's.
        work: its end is the end of the loop.
        intact: tells whether the loop still has the descriptors that it waits with.
        end: ends this process; None ends its children with it.
    """
    task = loop.create_task(work)
    breaks: list[None] = []
    while True:
        try:
            return loop.run_until_complete(task)
        except BaseException as error:
            if not intact():
                # The loop could not wait any more, and neither could its clean-up.
                pulse.leave()
            if task.done() or loop.is_closed():
                raise
            if not breaks:
                logger.error("the runner's loop was broken off, and goes on", extra={"reason": type_name(error)})
                # This is called after all that waits now.
                loop.call_soon(breaks.clear)
            breaks.append(None)
            if len(breaks) > BREAKS_MAX:
                logger.error("the runner's loop does not go on any more", extra={"reason": type_name(error)})
                (end or _end_group)()
                raise


async def _run(connection: socket.socket, table: int, own: OwnDescriptors) -> Telemetry | None:
    """Runs the tasks that are sent. Returns the telemetry, which must be stopped last."""
    loop = asyncio.get_running_loop()
    ticker = pulse.Pulse(own)
    _, runner = await loop.create_connection(lambda: _Runner(ticker), sock=connection)
    setup = await runner.setup
    if setup.sys_path:
        sys.path[:] = setup.sys_path
    if setup.log_format:
        logs.configure(setup.log_format, setup.log_level, setup.worker, waits=True)
    telemetry = _telemetry()
    place = Place(setup.worker, trace_parent=setup.trace_parent, log_failures=setup.log_failures)
    async with AsyncExitStack() as stack:
        loaded = await load(stack, setup.selection, place.state)
        lost = {name: why for name, why in setup.offered.items() if name not in loaded.handlers}
        loaded = replace(loaded, refused={**lost, **loaded.refused})
        ticker.table = slots = SlotTable.attach(table, setup.slots, setup.spare)
        executor = Executor(
            loaded,
            place,
            slots,
            runner.outbox,
            runner.send_stopping,
            runner.send_withheld,
            runner.send_waiting,
            runner.give_up,
            encrypting_of(setup.worker, setup.encryption),
            context=context_of_handlers(),
        )
        threads = setup.slots + setup.spare
        upkeep = Upkeep(settings_of(loop), executor.running, runner.send_worn, threads, seldom_settings())
        runner.begin(executor, upkeep)
        runner.send(ready_of(loaded, describes=setup.describes, encrypts=bool(setup.encryption)))
        await until(runner.stopped)
        executor.close()
        await executor.finished()
        runner.flush()
    return telemetry


async def until(stopped: asyncio.Event) -> None:
    """Waits until the runner is to stop, also when a handler cancels all tasks of the loop and so this one."""
    while not stopped.is_set():
        try:
            await stopped.wait()
        except asyncio.CancelledError:
            logger.warning("a handler cancelled the runner's own task, which goes on")


async def load(
    stack: AsyncExitStack, selection: Selection, state: Any, functions: Iterable[Callable[..., Any]] = ()
) -> plugins.Loaded:
    """Does all that a runner needs before its first task. When that takes long, it logs what it waits for.

    Args:
        stack: calls the hooks of the runner's end, and leaves the lifespans.
        selection: what to load.
        state: what the lifespans fill.
        functions: handlers and lifespans of this process.
    """
    with Loading() as loading:
        loading.doing("importing handlers")
        loaded = plugins.load(selection, functions)
        for lifespan in loaded.lifespans:
            loading.doing(f"entering lifespan {lifespan.__module__}.{lifespan.__qualname__}")
            await lifespans.enter(stack, [lifespan], state)
        loaded = await runner_hooks.call_started(loaded, state, loading.doing)
    stack.push_async_callback(runner_hooks.call_stopping, loaded, state)
    return loaded


def encrypting_of(worker: str, options: EncryptionOptions) -> Encrypting:
    """Reads the keys of a worker, in a runner. When that fails, the log says why the runner cannot get ready."""
    if not options:
        return Encrypting.of(worker, options)
    with Loading() as loading:
        loading.doing("reading the keys of the codec")
        return Encrypting.of(worker, options)


def context_of_handlers() -> contextvars.Context:
    """Returns a copy of the current context without that of `decimal`, which all async handlers would share.

    Each attempt makes one of its own when it first calculates, as one in a thread does.
    """
    context = contextvars.Context()
    for variable, value in contextvars.copy_context().items():
        if variable.name != "decimal_context":
            context.run(variable.set, value)
    return context


def _telemetry() -> Telemetry | None:
    """Sets up tracing from the environment, which is the supervisor's."""
    try:
        return start("gowork-worker")
    except TelemetryError as error:
        # The command gowork-worker refuses to start with this error. Within another program attempts go on untraced.
        logger.warning("attempts are not traced", extra={"reason": str(error)})
        return None


def ready_of(loaded: plugins.Loaded, *, describes: bool = True, encrypts: bool = False) -> messages.Ready:
    """Returns what the supervisor must know of the handlers.

    Args:
        loaded: the handlers.
        describes: whether it wants their descriptions.
        encrypts: whether payloads are encrypted.
    """
    versions = {plugin.name: plugin.version for plugin in loaded.plugins}
    descriptions = _descriptions(loaded) if describes else {}
    return messages.Ready(
        handlers=tuple(
            messages.HandlerNote(
                name=handler.name,
                isolation=handler.options.isolation.value,
                retry=handler.options.retry,
                grace_ms=handler.options.grace_ms,
                plugin=handler.plugin,
                form=handler.form,
                plugin_version=versions.get(handler.plugin, ""),
                description=descriptions.get(handler.name, ""),
                fails_if_lost=handler.options.fails_if_lost,
                schedules=tuple(
                    schedule_bytes(each) for each in handler.options.schedules if not (encrypts and each.has_payload)
                ),
            )
            for handler in loaded.handlers.values()
        ),
        default_handler=loaded.default.name if loaded.default is not None else "",
        plugin_errors=(
            *(str(error) for error in loaded.errors),
            *(
                _unencrypted(handler.name, each.name)
                for handler in loaded.handlers.values()
                for each in handler.options.schedules
                if encrypts and each.has_payload
            ),
        ),
        shared=tuple(plugin.name for plugin in loaded.plugins if plugin.is_shared),
        version=__version__,
    )


def _unencrypted(handler: str, schedule: str) -> str:
    return (
        f"schedule {schedule!r} of handler {handler!r}: its payload can't be encrypted, because that needs the task's "
        "id, which each tick makes anew; leave the payload out and have the handler fetch it"
    )


def _descriptions(loaded: plugins.Loaded) -> dict[str, str]:
    """Returns {name of a handler: its description}. Those that are left out are beyond the bound."""
    descriptions: dict[str, str] = {}
    left = messages.DESCRIPTIONS_BYTES_MAX
    for name, handler in loaded.handlers.items():
        description, left_out = describe(handler)
        for part in left_out:
            logger.warning(
                "a schema is too large, so clients do not see it",
                extra={"handler": name, "schema": part, "bytes_max": HANDLER_DESCRIPTION_BYTES_MAX},
            )
        left -= len(description)
        if left < 0:
            logger.warning(
                "handlers are not described", extra={"first": name, "bytes_max": messages.DESCRIPTIONS_BYTES_MAX}
            )
            break
        descriptions[name] = description
    return descriptions


def _end_group() -> None:
    """Ends this process and its children."""
    os.killpg(os.getpgrp(), signal.SIGKILL)


class _Runner(asyncio.Protocol):
    """The runner's end of the pipe."""

    def __init__(self, ticker: pulse.Pulse) -> None:
        self._pulse = ticker
        self.setup: asyncio.Future[messages.Setup] = asyncio.get_running_loop().create_future()
        self.stopped = asyncio.Event()
        self.outbox = Outbox(self._send_work, self.send)
        self._executor: Executor | None = None
        self._upkeep: Upkeep | None = None
        #: How many Slots have come.
        self._slots_heard = 0
        self._transport: asyncio.Transport | None = None
        self._reader = pipe.FrameReader(self._take)

    def begin(self, executor: Executor, upkeep: Upkeep) -> None:
        """Gives all tasks that come from now on to the executor, and has the settings of the process restored."""
        self._executor = executor
        self._upkeep = upkeep
        self.outbox.leaving = upkeep.look

    def flush(self) -> None:
        """Sends the reports that are left."""
        self.outbox.flush()
        self.outbox.flush_executed()

    def send(self, message: messages.FromRunner) -> None:
        """Sends a control message."""
        self._write(pipe.CONTROL, messages.encode(message))

    def send_stopping(self, fence: int, grace_ms: int, kind: messages.StopKind) -> None:
        """Tells that a task was asked to stop."""
        self.send(messages.Stopping(fence, grace_ms, kind))

    def send_withheld(self, slots: int) -> None:
        """Tells how many slots are out of use."""
        self.send(messages.Withheld(slots, self._slots_heard))

    def send_waiting(self, attempts: int) -> None:
        """Tells how many attempts wait for other tasks."""
        self.send(messages.Waiting(attempts))

    def send_worn(self, reason: str) -> None:
        """Asks to be replaced."""
        self.send(messages.Worn(reason))

    # asyncio.Protocol's own annotation is wider: a socket's transport reads and writes.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
        except BaseException as error:  # noqa: BLE001 - also what is sent to this thread by others
            # Nobody knows which frames were handled, and no task must start twice.
            self.give_up(error)

    def give_up(self, error: BaseException) -> None:
        """Ends this process, because its state can't be trusted any more. The supervisor settles its tasks."""
        logger.error("an exception broke off the runner's own work, and ends it", extra={"reason": type_name(error)})
        _end_group()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.stopped.is_set():
            self._pulse.check()
            # The supervisor is gone, so nothing may run here any more.
            _end_group()

    def _take(self, kind: int, body: memoryview) -> None:
        if kind == pipe.CONTROL:
            self._control(messages.decode_to_runner(body))
            return
        response = session.ConnectResponse.FromString(bytes(body))
        assert self._executor is not None
        assert self._upkeep is not None
        if response.grants:
            self._executor.feed(response.grants)
        if response.cancelled:
            self._executor.cancel(response.cancelled, "the task was cancelled")
        if response.pings:
            self._executor.look_after()
            self._upkeep.look_after()
            if counts := self._upkeep.take_counts():
                self.send(messages.Restored(counts))
            self._write(pipe.WORK, session.ConnectRequest(pongs=response.pings).SerializeToString())

    def _control(self, message: messages.ToRunner) -> None:
        executor = self._executor
        if isinstance(message, messages.Setup):
            self.setup.set_result(message)
            return
        assert executor is not None
        match message:
            case messages.Slots(slots):
                self._slots_heard += 1
                executor.set_slots(slots)
            case messages.Recall():
                self.send(messages.Returned(executor.recall()))
            case messages.Lease(valid):
                executor.set_lease(valid)
            case messages.Interrupt(reason):
                executor.interrupt(reason)
            case messages.Stop():
                self.stopped.set()

    def _send_work(self, attempts: list[AttemptReport], size: int, progress: list[session.ProgressReport]) -> None:
        reports, columns = pack(attempts)
        completions = () if columns is None else (columns,)
        request = session.ConnectRequest(reports=reports, completions=completions, progress=progress)
        self._write(pipe.WORK, request.SerializeToString())

    def _write(self, kind: int, body: bytes) -> None:
        assert self._transport is not None
        self._transport.write(pipe.frame(kind, body))
