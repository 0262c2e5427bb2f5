"""What the log does when its etcd is full, is compacted under a follower, or changes its members."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path

import pytest
from etcd_members import EtcdCluster

from gowork.leader.log import Candidate, Leadership, LeadershipLostError, LogFullError, LogRefusedError, Span
from gowork.leader.log._etcd import compaction
from gowork.leader.log._etcd import etcd_pb2 as pb
from gowork.leader.log.conformance.kit import FIRST, lead_in_time
from gowork.leader.log.etcd import EtcdLog, etcd_log

pytestmark = pytest.mark.tool("etcd")

PATIENCE = 60.0
CANDIDATE = Candidate(FIRST.id, 0, 0, b"a leader")
#: etcd lets some more pass than this.
QUOTA_BYTES = 16 << 20


async def etcdctl(addresses: Sequence[str], *arguments: str) -> str:
    """Does what an operator does."""
    done = await asyncio.to_thread(
        subprocess.run,
        ["etcdctl", f"--endpoints={','.join(addresses)}", "--command-timeout=3s", *arguments],
        env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin:/usr/local/bin"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def begun(cluster: EtcdCluster) -> EtcdLog:
    log = etcd_log(cluster.url("care"))
    await log.open()
    await log.begin(FIRST, None)
    return log


async def filled(leadership: Leadership, after: int = 0) -> int:
    """Appends until etcd is full. Returns the index of the last entry."""
    index = after
    while True:
        try:
            await leadership.append(index + 1, b"%d" % index + bytes(1 << 20))
        except LogFullError as error:
            found = re.findall("etcdctl [a-z ]+", str(error))
            return index if found == ["etcdctl defrag", "etcdctl alarm disarm"] else -1
        index += 1


@pytest.fixture
async def in_time() -> AsyncIterator[None]:
    async with asyncio.timeout(2 * PATIENCE):
        yield


async def test_a_leader_of_a_full_etcd_leads_on_prunes_and_appends_again_once_there_is_room(
    tmp_path: Path, in_time: None
) -> None:
    with EtcdCluster(tmp_path, 1, f"--quota-backend-bytes={QUOTA_BYTES}") as cluster:
        addresses = [member.address for member in cluster.members]
        log = await begun(cluster)
        await log.put_note("kept", b"1")
        leadership = await log.campaign(CANDIDATE)
        last = await filled(leadership)
        assert last > 3
        with pytest.raises(LogFullError):
            await log.put_note("new", b"1")
        with pytest.raises(LogFullError):
            await log.put_note("pin", b"1", 60)
        # It leads for longer than a lease, and what writes nothing is confirmed.
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(4):
                await leadership.lost.wait()
        await leadership.confirm()
        # It prunes by deletes alone, which etcd lets pass.
        await leadership.prune(last)
        assert await log.span() == Span(last, last)
        await log.drop_note("kept")
        assert await log.notes() == {}
        with pytest.raises(LogFullError):
            await leadership.append(last + 1, b"too early")
        await etcdctl(addresses, "defrag")
        await etcdctl(addresses, "alarm", "disarm")
        await leadership.append(last + 1, b"there is room")
        # What was pruned was compacted, too. Otherwise this would fill it at once.
        assert await filled(leadership, last + 1) > last + 3
        await log.close()


async def test_nobody_is_elected_by_a_full_etcd_and_somebody_is_once_there_is_room(
    tmp_path: Path, in_time: None
) -> None:
    with EtcdCluster(tmp_path, 1, f"--quota-backend-bytes={QUOTA_BYTES}") as cluster:
        addresses = [member.address for member in cluster.members]
        log = await begun(cluster)
        leadership = await log.campaign(CANDIDATE)
        last = await filled(leadership)
        await leadership.prune(last)
        await leadership.resign()
        other = etcd_log(cluster.url("care"))
        await other.open()
        candidate = Candidate(FIRST.id, last, 1, b"another")
        with pytest.raises(LogFullError, match="etcdctl defrag"):
            await other.campaign(candidate)
        await etcdctl(addresses, "defrag")
        await etcdctl(addresses, "alarm", "disarm")
        successor = await other.campaign(candidate)
        await successor.append(last + 1, b"there is room")
        for each in (log, other):
            await each.close()


async def test_a_slow_follower_goes_on_after_etcd_was_compacted_past_it(tmp_path: Path, in_time: None) -> None:
    with EtcdCluster(tmp_path) as cluster:
        log, slow = await begun(cluster), etcd_log(cluster.url("care"))
        await slow.open()
        leadership = await log.campaign(CANDIDATE)
        for index in range(1, 4):
            await leadership.append(index, b"%d" % index)
        found: list[int] = []
        async with aclosing(slow.follow(0)) as pages:
            # It has read the first page, and has not begun to watch.
            found += [entry.index for entry in await anext(pages)]
            for index in range(4, 40):
                await leadership.append(index, b"%d" % index)
            # Compacts, too.
            await leadership.prune(3)
            while found[-1] < 39:
                found += [entry.index for entry in await anext(pages)]
            # And while it watches.
            following = asyncio.ensure_future(anext(pages))
            await leadership.append(40, b"40")
            await leadership.prune(30)
            found += [entry.index for entry in await following]
        assert found == list(range(1, 41))
        for each in (log, slow):
            await each.close()


async def test_who_shares_etcd_is_told_when_nobody_compacts_it(
    tmp_path: Path, in_time: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compaction, "OTHERS_SECONDS", 0.0)
    with EtcdCluster(tmp_path) as cluster:
        log = etcd_log(f"{cluster.url('care')}?compact=no")
        await log.open()
        await log.begin(FIRST, None)
        leadership = await log.campaign(CANDIDATE)
        said = []
        for index in range(1, 6):
            await leadership.append(index, b"%d" % index)
            if index == 4:
                await etcdctl([cluster.members[0].address], "compact", str(await revision(log)))
            await leadership.prune(index)
            said.append(sum(record.message == "etcd is not compacted" for record in caplog.records))
        # The first prune removed nothing. After the next ones history is there, until somebody compacts it.
        assert said == [0, 0, 1, 1, 2]
        await log.close()


async def test_what_was_compacted_further_is_no_matter(tmp_path: Path, in_time: None) -> None:
    with EtcdCluster(tmp_path) as cluster:
        log = await begun(cluster)
        last = await revision(log)
        await log._etcd.compact(last)
        with pytest.raises(LogRefusedError, match="has been compacted"):
            await log._etcd.compact(last)
        await log._compaction.pruned(last)
        await log.close()


async def revision(log: EtcdLog) -> int:
    return int((await log._etcd.range(pb.RangeRequest(key=b"nothing"))).header.revision)


@pytest.mark.longer
async def test_members_of_etcd_are_replaced_under_a_leader_one_after_the_other(tmp_path: Path, in_time: None) -> None:
    with EtcdCluster(tmp_path, 3) as cluster:
        addresses = [member.address for member in cluster.members]
        log = await begun(cluster)
        appended = 0
        is_over = asyncio.Event()

        async def append() -> None:
            nonlocal appended
            leadership = await log.campaign(CANDIDATE)
            while not is_over.is_set():
                try:
                    await leadership.append(appended + 1, b"%d" % appended)
                except LeadershipLostError:
                    # The member that was lost may have led etcd, and a new one may not have led in time.
                    appended = (await log.span()).last
                    leadership = await lead_in_time(log, applied=appended)
                else:
                    appended += 1

        appending = asyncio.ensure_future(append())
        for place in (0, 1):
            others = [address for number, address in enumerate(addresses) if number != place]
            await replaced(cluster, place, others)
            before = appended
            while appended < before + 20:
                if appending.done():
                    # It ends only when it fails.
                    await appending
                await asyncio.sleep(0.01)
        is_over.set()
        await appending
        assert await log.span() == Span(1, appended)
        await log.close()


async def replaced(cluster: EtcdCluster, place: int, others: Sequence[str]) -> None:
    """Puts a new member with an empty disk in the place of another, as an operator does when a machine is lost."""
    member = cluster.members[place]
    member.kill()
    listed = (await etcdctl(others, "member", "list")).splitlines()
    (row,) = [row for row in listed if f" {member.name}," in row]
    # A request that comes while etcd has no leader is lost, and members are not trusted in their first seconds.
    await until_done(others, "member", "remove", row.split(",")[0], done="not found")
    await until_done(others, "member", "add", member.name, f"--peer-urls={row.split(',')[3].strip()}", done="exists")
    await asyncio.to_thread(member.begin_anew)
    await asyncio.to_thread(member.wait)


async def until_done(addresses: Sequence[str], *arguments: str, done: str) -> None:
    """Does what an operator does until it is done, or etcd says that it was done before."""
    while True:
        try:
            await etcdctl(addresses, *arguments)
        except AssertionError as error:
            if done in str(error):
                return
            await asyncio.sleep(0.2)
        else:
            return
