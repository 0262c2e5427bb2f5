"""A simulated cluster with several leaders, which share a log in a simulated etcd."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random
from typing import Any

from sim_check_log import CheckedEtcd, LogChecks
from sim_etcd_calls import LoopClock
from sim_faults import break_things
from sim_leader import ask
from sim_leader_faults import break_leaders
from sim_logged_store import SimLoggedStore
from sim_network import Link, SimCall
from sim_node import LeaderProcess, SimNode
from sim_plants import Plants
from sim_process import StoppingLoop
from sim_seat import Seat
from sim_standins import simulated_leaders
from sim_store import let_go
from sim_violation import Violation
from sim_worker import Life
from sim_world import FAULTY_SECONDS, World

from gowork.leader._core import commands as cmd
from gowork.leader._engine.loop import Engine
from gowork.proto.cluster.v1 import leader_pb2 as pb

#: How long a caller waits for an answer, in seconds.
_ANSWER_SECONDS = 3.0
#: Callers that still ask at this time have waited in vain, in the world's seconds.
_ENDLESS_SECONDS = 1_000.0


class SeveralWorld(World):
    """A world with two or three leaders."""

    loop: StoppingLoop
    loop_class = StoppingLoop

    def __init__(self, seed: int, plants: Plants | None = None, *, reads_completions: bool = True) -> None:
        super().__init__(seed, plants, reads_completions=reads_completions)
        self.log_checks = LogChecks(self)
        self.etcd = CheckedEtcd(LoopClock(self.loop), self.log_checks)
        #: The largest part of an entry, in bytes.
        self.part_bytes = self.rng.choice((1 << 20, 200))
        #: A store that lacks no more than this is waited for, in bytes.
        self.behind_bytes = self.rng.choice((4 << 10, 256, 256))
        self.nodes: list[SimNode] = []
        #: The store of each process that there was.
        self.stores: list[SimLoggedStore] = []
        #: Whether the disk of a machine was lost.
        self.has_lost_a_disk = False

    @contextmanager
    def simulated(self) -> Iterator[None]:
        with super().simulated(), simulated_leaders(self):
            yield

    def start_leaders(self, group: asyncio.TaskGroup, folder: Path) -> list[asyncio.Task[None]]:
        for number in range(self.rng.choice((2, 3, 3, 3))):
            self.nodes.append(SimNode(self, folder, number))
        return []

    def faults(self) -> list[Coroutine[Any, Any, None]]:
        return [
            break_things(self, FAULTY_SECONDS),
            break_leaders(self, FAULTY_SECONDS),
            self._ask_the_deposed(FAULTY_SECONDS),
        ]

    def all_ended(self) -> bool:
        applied = [self.applied(node.name) for node in self.nodes]
        return super().all_ended() and all(index == self.log_checks.end.index for index in applied)

    def let_go(self) -> None:
        for store in self.stores:
            let_go(store)

    # What its parts ask for.

    def node_at(self, address: str) -> SimNode:
        """Returns the machine with this address."""
        return next(node for node in self.nodes if node.cluster == address)

    def process_at(self, address: str) -> LeaderProcess | None:
        """Returns the process that serves at this address, if there is one."""
        return self.node_at(address).process

    def applied(self, name: str) -> int | None:
        """Returns the index of the last entry that a leader's store has; None when none is open."""
        process = next((node.process for node in self.nodes if node.name == name), None)
        return None if process is None else process.store.applied

    def links_of(self, node: SimNode) -> list[Link]:
        """Returns the streams whose other end is on this machine."""
        return [link for link in self.links.values() if link.seat.name == node.name]

    def serves(self, engine: Engine) -> bool:
        return any(
            node.process is not None and node.process.seat is not None and node.process.seat.engine is engine
            for node in self.nodes
        )

    def connect(self, life: Life, call: SimCall) -> Link | None:
        if not self.is_reached_by(life):
            return None
        seat = self._seat_by_way_of(self.rng.choice(self.nodes))
        return None if seat is None else self.link(seat, life, call)

    def who_leads(self, life: Life, address: str) -> pb.LeadersResponse | None:
        seat = self._seat_by_way_of(self.rng.choice(self.nodes)) if self.is_reached_by(life) else None
        if seat is None:
            return None
        # Its term is in each of its fences.
        term = seat.engine._state.fence >> 40
        self.trace.seen["worker: hears who leads"] += 1
        return pb.LeadersResponse(
            log=pb.Log(generation="g"), leaders=[pb.Leader(leads=True, term=term, cluster_address=address)]
        )

    async def call(self, command: cmd.AnyCommand) -> object:
        if self._violation is not None:
            # Nobody may ever answer again.
            raise self._violation
        if self.loop.now > _ENDLESS_SECONDS:
            raise Violation("a leader answers once all is calm", self.loop.now)
        seat = self._seat_by_way_of(self.rng.choice(self.nodes))
        if seat is None:
            return self.LOST
        asked = self.loop.now
        gives_up, misses = (0.0, 0.0) if self.calm else (self.rng.random(), self.rng.random())
        try:
            answer = await ask(seat, command, 0.02 if gives_up > 0.95 else _ANSWER_SECONDS)
        except LookupError:
            return self.LOST
        self.log_checks.answered(seat.name, seat.token, asked)
        return self.heard(command, answer, misses=misses > 0.95)

    async def _ask_the_deposed(self, until: float) -> None:
        """Asks who serves and does not lead any more what writes nothing, until the time `until`."""
        rng = Random(self.rng.random())
        while self.loop.now < until:
            await self.loop.pass_time(rng.uniform(0.002, 0.02))
            for node in self.nodes:
                seat = node.process.seat if node.process is not None and node.is_reached else None
                if seat is not None and self.log_checks.is_over(seat.token):
                    asked = self.loop.now
                    with suppress(LookupError):
                        await ask(seat, cmd.Cancel("nobody"), _ANSWER_SECONDS)
                        self.log_checks.answered(seat.name, seat.token, asked)

    def _seat_by_way_of(self, node: SimNode) -> Seat | None:
        """Returns the leader that answers a call to this machine, which may forward it."""
        if not node.is_reached:
            return None
        assert node.process is not None
        if node.process.seat is not None:
            return node.process.seat
        address = node.process.follows
        leading = None if address is None else self.node_at(address.cluster)
        if leading is None or self.loop.now < leading.away_until or leading.process is None:
            return None
        self.trace.seen["log: a call is forwarded"] += leading.process.seat is not None
        return leading.process.seat
