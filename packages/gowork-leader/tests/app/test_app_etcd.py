"""A leader on a real etcd that has used up its quota."""

from __future__ import annotations

import asyncio
import itertools
import json
import subprocess
from contextlib import aclosing
from pathlib import Path

import grpc
import pytest
from etcd_members import EtcdCluster
from leader_serving import PATIENCE
from sharing_leaders import sharing

from gowork.leader._replication import pins, pruning, upkeep
from gowork.leader.log import Leader, Log
from gowork.leader.log.etcd import etcd_log

pytestmark = pytest.mark.tool("etcd")

#: etcd takes no less than it needs for itself.
QUOTA_BYTES = 4 << 20


async def test_a_full_etcd_is_named_and_its_leader_goes_on_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "REGISTER_SECONDS", 0.1)
    monkeypatch.setattr(upkeep, "FORCE_SECONDS", 0.1)
    monkeypatch.setattr(pruning, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(pins, "PIN_SECONDS", 2.0)
    monkeypatch.setattr(pins, "AGAIN_SECONDS", 0.5)
    async with asyncio.timeout(PATIENCE):
        with EtcdCluster(tmp_path, 1, f"--quota-backend-bytes={QUOTA_BYTES}") as cluster:
            async with sharing(tmp_path, lambda: etcd_log(cluster.url("full"))) as crew:
                served = await crew.start("a")
                await crew.says("a", 200, "ready")
                await crew.start("b")
                await crew.says("b", 200, "follows")
                leader = await leader_of(crew.logs["a"])
                assert leader is not None
                await crew.submitted("b", "before")
                await asyncio.to_thread(fill, cluster)
                await crew.says("b", 200, "etcdctl defrag")
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await served.submit("refused")
                assert "etcdctl defrag" in str(caught.value.details())
                text = await crew.says("a", 503, "the log takes nothing")
                assert "etcdctl defrag" in text
                assert "etcdctl alarm disarm" in text
                # It leads on.
                assert await leader_of(crew.logs["a"]) == leader
                await asyncio.to_thread(make_room, cluster)
                await crew.submitted("a", "there is room")
                while "defrag" in await crew.says("a", 200, "ready") + await crew.says("b", 200, "follows"):
                    pass
                await crew.forced("a", "b")
                assert await leader_of(crew.logs["a"]) == leader


def fill(cluster: EtcdCluster) -> None:
    """Has others that use this etcd write until it is full."""
    for number in itertools.count():
        done = etcdctl(cluster, "put", f"others/{number}", "x" * 100_000)
        if done.returncode:
            assert "database space exceeded" in done.stderr, done.stderr
            return


def make_room(cluster: EtcdCluster) -> None:
    """Does what an operator does when etcd is full of what others wrote."""
    removed = etcdctl(cluster, "del", "--prefix", "others", "-w", "json").stdout
    revision = json.loads(removed)["header"]["revision"]
    for command in (f"compact --physical {revision}", "defrag", "alarm disarm"):
        done = etcdctl(cluster, *command.split())
        # The leader may have compacted further.
        assert done.returncode == 0 or "has been compacted" in done.stderr, done.stderr


async def leader_of(log: Log) -> Leader | None:
    async with aclosing(log.leaders()) as leaders:
        return await anext(leaders)


def etcdctl(cluster: EtcdCluster, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["etcdctl", f"--endpoints={cluster.members[0].address}", *arguments],
        env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin:/usr/local/bin"},
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
