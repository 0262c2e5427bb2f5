"""Stands in for a worker's operating system: clocks, processes and descriptors are simulated."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from unittest import mock

import grpc
from sim_network import SimChannel
from sim_runner import SimRunner

from gowork.base import succession
from gowork.proto.cluster.v1 import leader_pb2 as pb
from gowork.worker._app import service
from gowork.worker._fleet import fleet, process
from gowork.worker._runner.table import SlotTable
from gowork.worker._session import connector, stream

if TYPE_CHECKING:
    from sim_worker import Life
    from sim_world import World

#: How long an answer to the question who leads is under way, in seconds.
_ANSWER_SECONDS = 0.02
#: The worker whose code runs.
LIFE: ContextVar[Life] = ContextVar("LIFE")


@contextmanager
def simulated_machines(world: World) -> Iterator[None]:
    """Within, workers run on simulated machines."""
    with ExitStack() as stack:
        for module in (service, fleet):
            stack.enter_context(mock.patch.object(module, "time", _Time))
        for owner, name, stand_in in (
            (connector, "open_channel", lambda addresses, **_: SimChannel(world, LIFE.get())),
            (succession, "open_channel", lambda addresses, **_: _QuestionChannel(world, addresses[0])),
            (connector, "random", _Chance),
            (stream, "random", _Chance),
            (process, "end_group", _end_group),
            (process, "_oom_kills", lambda: 0),
            (process.ProcessRunner, "_spawn", _spawn),
            (fleet, "Warden", _Nothing),
            (fleet, "Outputs", _Nothing),
        ):
            stack.enter_context(mock.patch.object(owner, name, stand_in))
        yield


class _QuestionChannel:
    """Plays a connection of its own, over which a worker asks who leads."""

    def __init__(self, world: World, address: str) -> None:
        self._world, self._address = world, address

    async def __aenter__(self) -> _QuestionChannel:
        return self

    async def __aexit__(self, *error: object) -> None:
        """Has nothing to close."""

    def unary_unary(self, path: str, **_: object) -> Any:
        async def ask(request: pb.LeadersRequest, timeout: float) -> pb.LeadersResponse:
            await asyncio.sleep(_ANSWER_SECONDS)
            told = self._world.who_leads(LIFE.get(), self._address)
            if told is None:
                await asyncio.sleep(timeout - _ANSWER_SECONDS)
                nothing = grpc.aio.Metadata()
                raise grpc.aio.AioRpcError(grpc.StatusCode.DEADLINE_EXCEEDED, nothing, nothing, "nobody answers")
            return told

        return ask

    unary_stream = stream_unary = stream_stream = unary_unary


class _Time:
    """Stands in for the module `time`: the clock of the current machine."""

    @staticmethod
    def monotonic() -> float:
        return asyncio.get_running_loop().time()

    @staticmethod
    def monotonic_ns() -> int:
        return LIFE.get().clock_ns()


class _Chance:
    """Stands in for the module `random`: draws by the seed."""

    @staticmethod
    def uniform(least: float, most: float) -> float:
        life = LIFE.get()
        # The rest of a process that has crashed must not change the history of the others.
        return life.world.rng.uniform(least, most) if life.is_alive else most


def _end_group(pid: int) -> None:
    runner = LIFE.get().runners.get(pid)
    if runner is not None:
        runner.kill()


async def _spawn(self: process.ProcessRunner, stack: ExitStack) -> tuple[SimRunner, None]:
    life = LIFE.get()
    if not life.is_alive:
        raise OSError("the simulated machine is gone")
    if not life.world.calm and life.world.rng.random() < 0.02:
        life.world.trace.fault("a runner can't be started", life.instance)
        raise OSError("the simulated machine has no memory left")
    self._table = SlotTable.private(self._start.slots, self._start.spare)
    runner = SimRunner(life, self.name, self._table)
    life.runners[runner.pid] = runner
    self._process = runner  # type: ignore[assignment]
    return runner, None


class _Nothing:
    """Stands in for parts that the simulation leaves out: the warden of process groups, and what runners print."""

    def __init__(self, descriptors: object = None) -> None:
        """Does nothing."""

    def guard(self, pid: int) -> None:
        """Does nothing, because there is no process group."""

    def release(self, pid: int) -> None:
        """Does nothing, because there is no process group."""

    def close(self) -> _Nothing:
        return self

    def __await__(self) -> Iterator[None]:
        yield from ()
