"""Compacts etcd after each prune, because it keeps what was deleted until its history is compacted."""

from __future__ import annotations

import logging
from contextlib import suppress

from gowork.leader.log._etcd import etcd_pb2 as pb
from gowork.leader.log._etcd.client import Etcd
from gowork.leader.log.protocol import LogRefusedError

_log = logging.getLogger(__name__)

#: How long others that share etcd may take until they compact what was pruned, in seconds.
OTHERS_SECONDS = 3 * 3600.0


class Compaction:
    """Compacts etcd, or looks whether others do so.

    Args:
        etcd: how etcd is called.
        key: any key that may be read.
        compacts: whether it compacts. Others that share etcd may need its history, and then they must compact it.
    """

    def __init__(self, etcd: Etcd, key: bytes, *, compacts: bool) -> None:
        self._etcd = etcd
        self._key = key
        self._compacts = compacts
        #: The revision of a prune, and when it was, by Etcd.now; None: none was looked at yet.
        self._pruned: tuple[int, float] | None = None

    async def pruned(self, revision: int) -> None:
        """Is told of a prune.

        Args:
            revision: its revision.

        Raises:
            LogUnreachableError.
        """
        if self._compacts:
            # Refused when somebody else has compacted further.
            with suppress(LogRefusedError):
                await self._etcd.compact(revision)
            return
        now = self._etcd.now()
        if self._pruned is not None and now < self._pruned[1] + OTHERS_SECONDS:
            return
        before, self._pruned = self._pruned, (revision, now)
        if before is not None and not await self._is_forgotten(before[0]):
            _log.warning(
                "etcd is not compacted",
                extra={
                    "reason": "it keeps all that was pruned: set its --auto-compaction-retention, or omit compact=no"
                },
            )

    async def _is_forgotten(self, revision: int) -> bool:
        try:
            await self._etcd.range(pb.RangeRequest(key=self._key, keys_only=True, revision=revision))
        except LogRefusedError:
            return True
        return False
