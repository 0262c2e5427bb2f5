"""The worker's own reckoning of its lease."""

from __future__ import annotations

import asyncio

from gowork.worker._session.lease import Lease


async def test_lease_counts_from_when_the_answered_heartbeat_was_sent() -> None:
    lost = asyncio.Event()
    lease = Lease(lost.set)
    lease.seconds = 3600.0
    lease.renew(asyncio.get_running_loop().time() - 3600.0)
    async with asyncio.timeout(120):
        await lost.wait()


async def test_lease_that_is_renewed_is_not_lost_by_the_earlier_reckoning() -> None:
    lost: list[bool] = []
    lease = Lease(lambda: lost.append(True))
    lease.seconds = 3600.0
    now = asyncio.get_running_loop().time()
    lease.renew(now - 3600.0)
    lease.renew(now)
    for _ in range(3):
        await asyncio.sleep(0)
    assert lost == []
