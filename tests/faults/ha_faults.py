"""The faults of a run with several leaders: a deck of them, shuffled by a seed, and how each is done and undone."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from etcd_members import EtcdMember
from ha_cluster import LEADERS, LeadersCluster
from ha_log import LogReader


class Kind(StrEnum):
    """The kinds of faults. "Leader" is here the one that leads."""

    KILL_LEADER = "the leader is killed"
    STOP_LEADER = "the leader is stopped beyond its lease"
    TERM_LEADER = "the leader is told to end"
    CUT_LEADER_FROM_ETCD = "the leader is cut off from etcd"
    CUT_LEADER_FROM_WORKERS = "the leader is cut off from workers"
    KILL_SUCCESSOR = "the leader is killed, and its successor when it is elected"
    KILL_LEADER_AND_MEMBER = "the leader is killed with a member of etcd"
    KILL_LEADER_AND_ETCD_LEADER = "the leader is killed with etcd's leader"
    KILL_MEMBER = "a member of etcd is killed"
    KILL_ETCD_LEADER = "etcd's leader is killed"
    STOP_MEMBER = "a member of etcd is stopped"
    STOP_ETCD_LEADER = "etcd's leader is stopped"
    KILL_FOLLOWER = "a follower is killed"
    CUT_FOLLOWER_FROM_ETCD = "a follower is cut off from etcd"


#: How often each is done at least.
DECK: Mapping[Kind, int] = {
    Kind.KILL_LEADER: 20,
    Kind.STOP_LEADER: 10,
    Kind.TERM_LEADER: 5,
    Kind.CUT_LEADER_FROM_ETCD: 4,
    Kind.CUT_LEADER_FROM_WORKERS: 3,
    Kind.KILL_SUCCESSOR: 4,
    Kind.KILL_LEADER_AND_MEMBER: 3,
    Kind.KILL_LEADER_AND_ETCD_LEADER: 3,
    Kind.KILL_MEMBER: 3,
    Kind.KILL_ETCD_LEADER: 4,
    Kind.STOP_MEMBER: 3,
    Kind.STOP_ETCD_LEADER: 3,
    Kind.KILL_FOLLOWER: 3,
    Kind.CUT_FOLLOWER_FROM_ETCD: 3,
}
#: The same for a run that lasts about 40 s.
SHORT_DECK: Mapping[Kind, int] = {
    Kind.KILL_LEADER: 2,
    Kind.STOP_LEADER: 1,
    Kind.TERM_LEADER: 1,
    Kind.CUT_LEADER_FROM_ETCD: 1,
    Kind.KILL_SUCCESSOR: 1,
    Kind.KILL_LEADER_AND_ETCD_LEADER: 1,
}
#: How long what was killed stays away, and what was stopped or cut stays so, in seconds (least, most).
_AWAY: Mapping[Kind, tuple[float, float]] = {
    # The lease lasts 3 s.
    Kind.STOP_LEADER: (3.5, 10.0),
    Kind.CUT_LEADER_FROM_ETCD: (3.5, 7.0),
    Kind.CUT_LEADER_FROM_WORKERS: (2.0, 12.0),
    Kind.CUT_FOLLOWER_FROM_ETCD: (2.0, 7.0),
    Kind.STOP_MEMBER: (2.0, 5.0),
    Kind.STOP_ETCD_LEADER: (2.0, 5.0),
}
_AWAY_USUALLY = (0.2, 1.5)
#: How soon after its election a successor is killed, in seconds at most.
_SUCCESSOR_SECONDS = 0.05
#: How long an election may take, in seconds.
_ELECTION_SECONDS = 30.0


@dataclass(frozen=True)
class Fault:
    """One entry of the plan."""

    kind: Kind
    #: Seconds until the victims are started again, or go on.
    away: float
    #: Decides on whatever else is random.
    seed: int


@dataclass(frozen=True)
class Event:
    """A fault that was done."""

    kind: Kind
    #: The names of the victims.
    targets: tuple[str, ...]
    #: When it was done, in monotonic seconds. After several steps: when the last one was.
    at: float
    #: When the victims were started again, or went on; infinite until then.
    until: float = float("inf")


def plan(chance: random.Random, deck: Mapping[Kind, int]) -> list[Fault]:
    """Returns the faults of one deck in a random order."""
    kinds = [kind for kind, number in deck.items() for _ in range(number)]
    chance.shuffle(kinds)
    return [Fault(kind, chance.uniform(*_AWAY.get(kind, _AWAY_USUALLY)), chance.randrange(1 << 30)) for kind in kinds]


class Faults:
    """Does faults to a cluster, one at a time."""

    def __init__(self, cluster: LeadersCluster, reader: LogReader) -> None:
        """`reader` knows who leads."""
        self._cluster = cluster
        self._reader = reader

    async def strike(self, fault: Fault, recovery: AsyncExitStack) -> Event:
        """Does a fault, and leaves to `recovery` what undoes it."""
        cluster, chance = self._cluster, random.Random(fault.seed)
        leader = await self._reader.leading()
        follower = chance.choice([name for name in LEADERS if name != leader])
        at = time.monotonic()
        match fault.kind:
            case Kind.KILL_LEADER:
                targets = [self._kill(leader, recovery)]
            case Kind.KILL_FOLLOWER:
                targets = [self._kill(follower, recovery)]
            case Kind.STOP_LEADER:
                targets = [self._stop(leader, recovery)]
            case Kind.TERM_LEADER:
                recovery.callback(cluster.start, leader)
                await asyncio.to_thread(cluster.terminate, leader)
                targets = [leader]
            case Kind.CUT_LEADER_FROM_ETCD | Kind.CUT_FOLLOWER_FROM_ETCD:
                targets = [leader if fault.kind is Kind.CUT_LEADER_FROM_ETCD else follower]
                for link in cluster.to_etcd[targets[0]]:
                    link.cut("up", "down")
                    recovery.callback(link.heal)
            case Kind.CUT_LEADER_FROM_WORKERS:
                cluster.from_workers[leader].cut("up", "down")
                recovery.callback(cluster.from_workers[leader].heal)
                targets = [leader]
            case Kind.KILL_SUCCESSOR:
                before = self._reader.leader
                targets = [self._kill(leader, recovery)]
                async with asyncio.timeout(_ELECTION_SECONDS):
                    successor = await self._reader.leading(after=before)
                await asyncio.sleep(chance.uniform(0, _SUCCESSOR_SECONDS))
                at = time.monotonic()
                targets.append(self._kill(successor, recovery))
            case Kind.KILL_MEMBER | Kind.KILL_ETCD_LEADER:
                member = await cluster.member(chance, leads=fault.kind is Kind.KILL_ETCD_LEADER)
                at = time.monotonic()
                targets = [self._kill_member(member, recovery)]
            case Kind.KILL_LEADER_AND_MEMBER | Kind.KILL_LEADER_AND_ETCD_LEADER:
                member = await cluster.member(chance, leads=fault.kind is Kind.KILL_LEADER_AND_ETCD_LEADER)
                at = time.monotonic()
                targets = [self._kill_member(member, recovery), self._kill(leader, recovery)]
            case Kind.STOP_MEMBER | Kind.STOP_ETCD_LEADER:
                member = await cluster.member(chance, leads=fault.kind is Kind.STOP_ETCD_LEADER)
                at = time.monotonic()
                member.signal(signal.SIGSTOP)
                recovery.callback(member.signal, signal.SIGCONT)
                targets = [member.name]
            case _:
                assert_never(fault.kind)
        return Event(fault.kind, tuple(targets), at)

    def _kill(self, name: str, recovery: AsyncExitStack) -> str:
        self._cluster.kill(name)
        recovery.callback(self._cluster.start, name)
        return name

    def _stop(self, name: str, recovery: AsyncExitStack) -> str:
        self._cluster.signal(name, signal.SIGSTOP)
        recovery.callback(self._cluster.signal, name, signal.SIGCONT)
        return name

    def _kill_member(self, member: EtcdMember, recovery: AsyncExitStack) -> str:
        member.kill()
        recovery.callback(member.start)
        return member.name
