"""The faults of a run with several leaders: a deck of them, shuffled by a seed, and how each is done and undone."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from enum import StrEnum
from typing import assert_never

from etcd_members import EtcdMember
from ha_cluster import LEADERS, LeadersCluster
from ha_log import LogReader
from ha_network import WORKERS


class Kind(StrEnum):
    """The kinds of faults. "Leader" is here the one that leads."""

    KILL_LEADER = "the leader is killed"
    STOP_LEADER = "the leader is stopped beyond its lease"
    TERM_LEADER = "the leader is told to end"
    CUT_LEADER_FROM_LOG = "the leader is cut off from the log"
    MUTE_LEADER = "what the leader sends to the log is lost"
    DEAFEN_LEADER = "what the log answers the leader is lost"
    CUT_LEADER_FROM_WORKERS = "the leader is cut off from workers"
    MUTE_WORKERS = "what workers send the leader is lost"
    DEAFEN_WORKERS = "what the leader sends workers is lost"
    KILL_SUCCESSOR = "the leader is killed, and its successor when it is elected"
    KILL_FOLLOWER = "a follower is killed"
    CUT_FOLLOWER_FROM_LOG = "a follower is cut off from the log"
    LOSE_LEADER = "the leader's machine is gone"
    LOSE_LEADER_AND_ETCD_LEADER = "the machines of the leader and of etcd's leader are gone"
    KILL_LEADER_AND_MEMBER = "the leader is killed with a member of etcd"
    KILL_LEADER_AND_ETCD_LEADER = "the leader is killed with etcd's leader"
    KILL_MEMBER = "a member of etcd is killed"
    KILL_ETCD_LEADER = "etcd's leader is killed"
    STOP_MEMBER = "a member of etcd is stopped"
    STOP_ETCD_LEADER = "etcd's leader is stopped, as by a disk that hangs"
    FILL_ETCD = "etcd's quota is full, and there is room again"
    KILL_POSTGRESQL = "PostgreSQL is killed, and started again"
    STOP_POSTGRESQL = "PostgreSQL is stopped"


#: {cut of workers from the leader: the ways that are cut}
FROM_WORKERS: Mapping[Kind, Sequence[str]] = {
    Kind.CUT_LEADER_FROM_WORKERS: ("up", "down"),
    Kind.MUTE_WORKERS: ("up",),
    Kind.DEAFEN_WORKERS: ("down",),
}
#: How often each is done at least, whatever has the log.
_ANY_LOG: Mapping[Kind, int] = {
    Kind.KILL_LEADER: 20,
    Kind.STOP_LEADER: 10,
    Kind.TERM_LEADER: 5,
    Kind.CUT_LEADER_FROM_LOG: 4,
    Kind.MUTE_LEADER: 2,
    Kind.DEAFEN_LEADER: 2,
    Kind.CUT_LEADER_FROM_WORKERS: 3,
    Kind.MUTE_WORKERS: 2,
    Kind.DEAFEN_WORKERS: 2,
    Kind.KILL_SUCCESSOR: 4,
    Kind.KILL_FOLLOWER: 3,
    Kind.CUT_FOLLOWER_FROM_LOG: 3,
}
#: {what has the log: how often each is done at least}
DECKS: Mapping[str, Mapping[Kind, int]] = {
    "etcd": {
        **_ANY_LOG,
        Kind.KILL_LEADER_AND_MEMBER: 3,
        Kind.KILL_LEADER_AND_ETCD_LEADER: 3,
        Kind.KILL_MEMBER: 3,
        Kind.KILL_ETCD_LEADER: 4,
        Kind.STOP_MEMBER: 3,
        Kind.STOP_ETCD_LEADER: 3,
        Kind.FILL_ETCD: 1,
    },
    "postgresql": {**_ANY_LOG, Kind.KILL_POSTGRESQL: 5, Kind.STOP_POSTGRESQL: 3},
}
#: The same besides, where a machine can be lost.
MACHINE_DECKS: Mapping[str, Mapping[Kind, int]] = {
    "etcd": {Kind.LOSE_LEADER: 5, Kind.LOSE_LEADER_AND_ETCD_LEADER: 5},
    "postgresql": {Kind.LOSE_LEADER: 5},
}
_SHORT_ANY_LOG: Mapping[Kind, int] = {
    Kind.KILL_LEADER: 1,
    Kind.STOP_LEADER: 1,
    Kind.TERM_LEADER: 1,
    Kind.CUT_LEADER_FROM_LOG: 1,
    Kind.KILL_SUCCESSOR: 1,
}
#: The same for runs that last about 30 s.
SHORT_DECKS: Mapping[str, Mapping[Kind, int]] = {
    "etcd": {**_SHORT_ANY_LOG, Kind.KILL_LEADER_AND_ETCD_LEADER: 1},
    "postgresql": {**_SHORT_ANY_LOG, Kind.KILL_POSTGRESQL: 1},
}
#: How long what was killed stays away, and what was stopped or cut stays so, in seconds (least, most).
_AWAY: Mapping[Kind, tuple[float, float]] = {
    # The lease lasts 3 s.
    Kind.STOP_LEADER: (3.5, 10.0),
    Kind.CUT_LEADER_FROM_LOG: (3.5, 7.0),
    Kind.MUTE_LEADER: (3.5, 7.0),
    Kind.DEAFEN_LEADER: (3.5, 7.0),
    Kind.LOSE_LEADER: (5.0, 10.0),
    Kind.LOSE_LEADER_AND_ETCD_LEADER: (7.0, 12.0),
    **dict.fromkeys(FROM_WORKERS, (2.0, 12.0)),
    Kind.CUT_FOLLOWER_FROM_LOG: (2.0, 7.0),
    Kind.STOP_MEMBER: (2.0, 5.0),
    Kind.STOP_ETCD_LEADER: (2.0, 5.0),
    Kind.STOP_POSTGRESQL: (0.5, 5.0),
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
    #: When its first step was done, in monotonic seconds.
    began: float
    #: When its last step was done.
    at: float
    #: When the victims were started again, or went on; infinite until then.
    until: float = float("inf")


def plan(chance: random.Random, deck: Mapping[Kind, int], *, is_short: bool = False) -> list[Fault]:
    """Returns the faults of one deck in a random order. In a short run nothing stays away for longer than it must."""
    kinds = [kind for kind, number in deck.items() for _ in range(number)]
    chance.shuffle(kinds)
    faults = []
    for kind in kinds:
        least, most = _AWAY.get(kind, _AWAY_USUALLY)
        away = chance.uniform(least, least if is_short else most)
        faults.append(Fault(kind, away, chance.randrange(1 << 30)))
    return faults


def deck_of(log: str, *, short: bool = False, loses_machines: bool = False) -> Mapping[Kind, int]:
    """Returns how often each fault is done at least.

    Args:
        log: what has the log: "etcd" or "postgresql".
        short: whether it is for a short run.
        loses_machines: whether a machine can be lost.
    """
    more = MACHINE_DECKS[log] if loses_machines else {}
    return {**(SHORT_DECKS if short else DECKS)[log], **(dict.fromkeys(more, 1) if short else more)}


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
        began = at = time.monotonic()
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
            case Kind.CUT_LEADER_FROM_LOG:
                targets = [self._cut_from_log(leader, recovery, "up", "down")]
            case Kind.CUT_FOLLOWER_FROM_LOG:
                targets = [self._cut_from_log(follower, recovery, "up", "down")]
            case Kind.MUTE_LEADER:
                targets = [self._cut_from_log(leader, recovery, "up")]
            case Kind.DEAFEN_LEADER:
                targets = [self._cut_from_log(leader, recovery, "down")]
            case Kind.CUT_LEADER_FROM_WORKERS | Kind.MUTE_WORKERS | Kind.DEAFEN_WORKERS:
                cluster.network.cut(WORKERS, leader, *FROM_WORKERS[fault.kind])
                recovery.callback(cluster.network.heal, WORKERS, leader)
                targets = [leader]
            case Kind.KILL_SUCCESSOR:
                before = self._reader.leader
                targets = [self._kill(leader, recovery)]
                async with asyncio.timeout(_ELECTION_SECONDS):
                    successor = await self._reader.leading(after=before)
                await asyncio.sleep(chance.uniform(0, _SUCCESSOR_SECONDS))
                at = time.monotonic()
                targets.append(self._kill(successor, recovery))
            case Kind.LOSE_LEADER:
                targets = [self._lose(leader, recovery)]
            case Kind.LOSE_LEADER_AND_ETCD_LEADER:
                member = await cluster.etcd.member(chance, leads=True)
                began = at = time.monotonic()
                cluster.network.lose(member.name)
                targets = [self._lose(leader, recovery), self._kill_member(member, recovery)]
                recovery.callback(cluster.network.find, member.name)
            case Kind.FILL_ETCD:
                await cluster.etcd.fill()
                await asyncio.sleep(fault.away)
                await cluster.etcd.free()
                at = time.monotonic()
                targets = cluster.etcd.machines
            case Kind.KILL_POSTGRESQL:
                server = cluster.postgresql.server
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
                at = time.monotonic()
                targets = cluster.postgresql.machines
            case Kind.STOP_POSTGRESQL:
                cluster.postgresql.hold(signal.SIGSTOP)
                recovery.callback(cluster.postgresql.hold, signal.SIGCONT)
                targets = cluster.postgresql.machines
            case (
                Kind.KILL_MEMBER
                | Kind.KILL_ETCD_LEADER
                | Kind.KILL_LEADER_AND_MEMBER
                | Kind.KILL_LEADER_AND_ETCD_LEADER
            ):
                leads = fault.kind in (Kind.KILL_ETCD_LEADER, Kind.KILL_LEADER_AND_ETCD_LEADER)
                member = await cluster.etcd.member(chance, leads=leads)
                began = at = time.monotonic()
                targets = [self._kill_member(member, recovery)]
                if fault.kind in (Kind.KILL_LEADER_AND_MEMBER, Kind.KILL_LEADER_AND_ETCD_LEADER):
                    targets.append(self._kill(leader, recovery))
            case Kind.STOP_MEMBER | Kind.STOP_ETCD_LEADER:
                member = await cluster.etcd.member(chance, leads=fault.kind is Kind.STOP_ETCD_LEADER)
                began = at = time.monotonic()
                member.signal(signal.SIGSTOP)
                recovery.callback(member.signal, signal.SIGCONT)
                targets = [member.name]
            case _:
                assert_never(fault.kind)
        return Event(fault.kind, tuple(targets), began, at)

    def _kill(self, name: str, recovery: AsyncExitStack) -> str:
        self._cluster.kill(name)
        recovery.callback(self._cluster.start, name)
        return name

    def _stop(self, name: str, recovery: AsyncExitStack) -> str:
        self._cluster.signal(name, signal.SIGSTOP)
        recovery.callback(self._cluster.signal, name, signal.SIGCONT)
        return name

    def _lose(self, name: str, recovery: AsyncExitStack) -> str:
        """Has a leader's machine lose its power: nobody hears of its connections any more."""
        self._cluster.network.lose(name)
        # It is on the network again before the leader is started.
        self._kill(name, recovery)
        recovery.callback(self._cluster.network.find, name)
        return name

    def _cut_from_log(self, name: str, recovery: AsyncExitStack, *ways: str) -> str:
        network = self._cluster.network
        for machine in self._cluster.servers.machines:
            network.cut(name, machine, *ways)
            recovery.callback(network.heal, name, machine)
        return name

    def _kill_member(self, member: EtcdMember, recovery: AsyncExitStack) -> str:
        member.kill()
        recovery.callback(member.start)
        return member.name
