"""Finds out whether another leader leads, when an address has fallen silent.

A leader whose process is stopped, or whose machine is gone, neither answers nor refuses. Only the other leaders know
whether a successor leads, because all of them read the log. So one of them is asked. No call goes elsewhere merely
because a leader is slow: the address is left only when another leader says that somebody else leads.

The only address may be a balancer's. It is asked itself, over a connection of its own, because the balancer may choose
another leader for that one.

Owns the judgement of what the others say. It never calls an address by itself: `ask` and `ask_blocking` ask once, and
their callers decide how often.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum, auto
from typing import TYPE_CHECKING

import grpc

from gowork.base.channels import open_blocking_channel, open_channel
from gowork.base.rotation import Rotation

if TYPE_CHECKING:
    from gowork.base.tls import Tls
    from gowork.proto.cluster.v1 import leader_pb2

#: How long another leader has to say who leads, in seconds.
ANSWER_SECONDS = 1.0
#: For how long one that knows no successor is asked to wait for one, in milliseconds.
WAIT_MS = 2_000


class Succession:
    """Asks the addresses of a rotation who leads. Make one for each rotation, and ask from one thread at a time."""

    def __init__(self, rotation: Rotation, *, for_workers: bool = False, tls: Tls | None = None) -> None:
        """Args:
        rotation: has the addresses.
        for_workers: whether they are addresses for workers; else they are for clients.
        tls: the certificates with which they are called; None: plain text.
        """
        self._rotation = rotation
        self._for_workers = for_workers
        self._tls = tls
        #: The highest term that a leader was said to lead.
        self._term = 0
        #: The term of which the only address said that no other leader can succeed it.
        self._alone_in = 0

    async def ask(self, silent: str, term: int = 0) -> bool:
        """Asks the other addresses, one after the other, until one of them knows who leads.

        One that knows no other leader than before is asked once more, to answer as soon as there is one, and after two
        seconds at the latest. A leader that leads instead of the silent one becomes the rotation's current address.
        Where its address is not among the rotation's, the address that named it does, because leaders forward calls.
        Otherwise nothing changes.

        Where there is no other address, this one is asked once, for an answer at once, and stays the current one. It is
        not asked when the term is not known, nor again in a term in which it has said that it has no log.

        Args:
            silent: the address that does not answer.
            term: the term of the leader there; 0: it is not known. Only a leader of a higher one is another leader.

        Returns:
            Whether another leader leads. What is open at the silent address should be given up then.
        """
        from gowork.proto.cluster.v1 import leader_pb2, leader_pb2_grpc

        for address in self._asked(silent, term):
            async with open_channel([address], has_others=True, tls=self._tls) as channel:
                stub = leader_pb2_grpc.LeaderServiceStub(channel)
                for wait_ms in (0,) if address == silent else (0, WAIT_MS):
                    request = leader_pb2.LeadersRequest(wait_ms=wait_ms, after_term=max(self._term, term))
                    try:
                        told = await stub.Leaders(request, timeout=ANSWER_SECONDS + wait_ms / 1000)
                    except grpc.RpcError:
                        break
                    heard = self._heard(told, address, silent, term)
                    if heard is _Heard.NOTHING:
                        break
                    if wait_ms or heard is _Heard.SUCCESSOR:
                        return heard is _Heard.SUCCESSOR
        return self._rotation.current != silent

    def ask_blocking(self, silent: str, term: int = 0) -> bool:
        """Does what `ask` does, for callers without an event loop."""
        from gowork.proto.cluster.v1 import leader_pb2, leader_pb2_grpc

        for address in self._asked(silent, term):
            channel = open_blocking_channel([address], has_others=True, tls=self._tls)
            try:
                stub = leader_pb2_grpc.LeaderServiceStub(channel)
                for wait_ms in (0,) if address == silent else (0, WAIT_MS):
                    request = leader_pb2.LeadersRequest(wait_ms=wait_ms, after_term=max(self._term, term))
                    told = stub.Leaders(request, timeout=ANSWER_SECONDS + wait_ms / 1000)
                    heard = self._heard(told, address, silent, term)
                    if heard is _Heard.NOTHING:
                        break
                    if wait_ms or heard is _Heard.SUCCESSOR:
                        return heard is _Heard.SUCCESSOR
            except grpc.RpcError:
                continue
            finally:
                channel.close()
        return self._rotation.current != silent

    def _asked(self, silent: str, term: int) -> Iterator[str]:
        """Yields the addresses to ask, as long as the silent one is the current one."""
        known = self._rotation.addresses
        if [*known] == [silent]:
            if term > self._alone_in and self._rotation.current == silent:
                yield silent
            return
        after = known.index(silent) + 1 if silent in known else 0
        for address in (*known[after:], *known[:after]):
            if self._rotation.current != silent:
                return
            if address != silent:
                yield address

    def _heard(self, told: leader_pb2.LeadersResponse, by: str, silent: str, term: int) -> _Heard:
        """Judges an answer."""
        known = self._rotation.addresses
        addresses = [each.cluster_address if self._for_workers else each.scheduler_address for each in told.leaders]
        is_listed = silent in addresses or silent not in known or {*known}.isdisjoint(addresses)
        if not told.HasField("log") or not is_listed:
            # A leader without a log has no successor. One that lists others of these addresses, and not the silent
            # one, belongs to another cluster.
            if by == silent:
                self._alone_in = term
            return _Heard.NOTHING
        leading = next((each for each in told.leaders if each.leads), None)
        if leading is None or leading.term < max(self._term, term + 1):
            return _Heard.NO_OTHER
        self._term = leading.term
        if by == silent:
            # What is open there belongs to a term that is over, whichever leader the connection leads to.
            return _Heard.SUCCESSOR
        address = leading.cluster_address if self._for_workers else leading.scheduler_address
        if address == silent:
            return _Heard.NO_OTHER
        self._rotation.replace(silent, address if address in known else by)
        return _Heard.SUCCESSOR


class _Heard(Enum):
    """What an answer says."""

    #: Nothing of this cluster, so that the next address is asked.
    NOTHING = auto()
    NO_OTHER = auto()
    SUCCESSOR = auto()
