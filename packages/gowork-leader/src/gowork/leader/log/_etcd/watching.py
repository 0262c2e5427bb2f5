"""Watches keys of etcd."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from gowork.leader.log._etcd import etcd_pb2 as pb
from gowork.leader.log._etcd.client import Etcd
from gowork.leader.log.holding import PAUSE_SECONDS
from gowork.leader.log.protocol import LogUnreachableError


async def changes(etcd: Etcd, key: bytes, end: bytes, revision: int) -> AsyncGenerator[pb.Event, None]:
    """Yields changes from a revision on until the watch breaks, for whatever reason. Then all must be read anew."""
    create = pb.WatchCreateRequest(key=key, range_end=end, start_revision=revision)
    with suppress(LogUnreachableError):
        async with aclosing(etcd.watch(create)) as answers:
            async for answer in answers:
                for event in answer.events:
                    yield event
    # A watch that always breaks at once must not be asked for without a pause.
    await asyncio.sleep(PAUSE_SECONDS)
