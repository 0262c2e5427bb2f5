"""A leader that the log does not answer, while it answers the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from pathlib import Path

import grpc
import pytest
from etcd_members import EtcdCluster
from leader_serving import PATIENCE, refused
from memory_log import MemoryLog
from sharing_leaders import Sharing, sharing
from tcp_proxy import TcpProxy

from gowork.leader._replication import candidacy, upkeep
from gowork.leader._rpc import forwarding, upstream
from gowork.leader.log import Leader, LogUnreachableError
from gowork.leader.log.etcd import etcd_log
from gowork.proto.cluster.v1 import leader_pb2 as pb


@pytest.fixture(autouse=True)
def all_goes_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(candidacy, "AGAIN_SECONDS", 0.05)
    monkeypatch.setattr(upstream, "CONFIRM_SECONDS", 0.05)
    # A busy machine must not miss the time before that.
    monkeypatch.setattr(forwarding, "BEHIND_SECONDS", 10 * PATIENCE)
    monkeypatch.setattr(upkeep, "REGISTER_SECONDS", 0.1)
    monkeypatch.setattr(upkeep, "FORCE_SECONDS", 0.1)


@pytest.fixture
async def crew(tmp_path: Path) -> AsyncIterator[Sharing]:
    async with asyncio.timeout(PATIENCE), sharing(tmp_path) as crew:
        yield crew


class CutLog(MemoryLog):
    """A log that says at once that it can't be reached when it is cut."""

    async def leaders(self) -> AsyncGenerator[Leader | None, None]:
        async with aclosing(super().leaders()) as leaders:
            while True:
                following = asyncio.ensure_future(anext(leaders))
                while not following.done():
                    turned = asyncio.ensure_future(self.place.change(asyncio.get_running_loop().time() + 1))
                    await asyncio.wait({following, turned}, return_when=asyncio.FIRST_COMPLETED)
                    turned.cancel()
                    if self.is_cut:
                        following.cancel()
                        await asyncio.wait({following})
                        raise LogUnreachableError("it is cut off")
                yield following.result()


async def test_a_follower_that_is_cut_off_from_the_log_alone_goes_on_forwarding_to_the_leader_that_leads(
    crew: Sharing, monkeypatch: pytest.MonkeyPatch
) -> None:
    await crew.start("a")
    await crew.says("a", 200, "ready")
    log = CutLog(crew.place)
    cut = await crew.start("b", log=log)
    await crew.says("b", 200, "follows")
    await crew.start("c")
    await crew.says("c", 200, "follows")
    async with cut.worker("w") as session:
        log.is_cut = True
        await crew.says("b", 200, "the log does not answer: ")
        # The session goes on, and so do calls.
        await cut.submit("one")
        await session.report(await session.grant())
        assert set(await cut.finished("one")) == {"one"}
        monkeypatch.setattr(forwarding, "BEHIND_SECONDS", 0.1)
        text = await crew.says("b", 503, "the log does not answer: ")
        assert text.startswith("follows the leader at ")
        await cut.submit("two")
        await session.report(await session.grant())
        assert set(await cut.finished("two")) == {"two"}
        # Another one leads, and nobody can tell the follower.
        monkeypatch.setattr(forwarding, "WAIT_SECONDS", 0.1)
        await crew._served["a"].cluster.StepDown(pb.StepDownRequest(), timeout=PATIENCE)
        await crew.says("c", 200, "ready")
        assert (await session.refusal()).code is grpc.StatusCode.UNAVAILABLE
    refusal = await refused(cut.submit("three"))
    assert refusal.reason == "NOT_LEADING"
    assert "the log does not answer: " in refusal.message
    monkeypatch.setattr(forwarding, "WAIT_SECONDS", PATIENCE)
    log.is_cut = False
    await cut.submit("three")
    text = await crew.says("b", 200, "follows")
    assert "the log" not in text


@pytest.mark.longer
@pytest.mark.tool("etcd")
async def test_a_follower_whose_packets_to_etcd_are_lost_goes_on_forwarding(tmp_path: Path) -> None:
    with EtcdCluster(tmp_path, 1) as cluster:
        async with (
            asyncio.timeout(PATIENCE),
            TcpProxy(cluster.members[0].address) as proxy,
            sharing(tmp_path, lambda: etcd_log(cluster.url("cut"))) as crew,
        ):
            await crew.start("a")
            await crew.says("a", 200, "ready")
            cut = await crew.start("b", log=etcd_log(f"etcd://{proxy.host}/cut"))
            await crew.says("b", 200, "follows")
            async with cut.worker("w") as session:
                proxy.stall()
                await cut.submit("one")
                await crew.says("b", 200, "the log does not answer: ")
                await cut.submit("two")
                for id in ("one", "two"):
                    await session.report(await session.grant())
                    assert set(await cut.finished(id)) == {id}
                proxy.heal()
                while "the log" in await crew.says("b", 200, "follows"):
                    pass
                # The store has what came meanwhile.
                await crew.forced("a", "b")
