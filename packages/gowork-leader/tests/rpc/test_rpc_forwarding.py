"""When a node asks the leader itself whether it leads, because nobody else says so."""

from __future__ import annotations

from gowork.leader._rpc.forwarding import Forwarding
from gowork.leader._rpc.services import Port

#: Nobody listens there.
ADDRESSES = {Port.CLUSTER: "127.0.0.1:1", Port.SCHEDULER: "127.0.0.1:1"}


async def test_a_leader_is_asked_again_and_again_for_as_long_as_nobody_else_says_who_leads() -> None:
    forwarding = Forwarding()
    async with forwarding.running():
        forwarding.follow(ADDRESSES)
        first = forwarding._leader
        assert first is not None
        assert not first.unconfirmed.is_set()
        forwarding.follow_on("the log does not answer")
        assert first.unconfirmed.is_set()
        # The same leader, over new connections.
        forwarding._change(ADDRESSES)
        again = forwarding._leader
        assert again is not None
        assert again is not first
        assert again.unconfirmed.is_set()
        forwarding.follow(ADDRESSES)
        assert forwarding._leader is again
        assert not again.unconfirmed.is_set()
