"""Appends to etcd without gowork, one entry after the other, each under a comparison of a key that stands for a leader.

A comparison is what tells an append to a shared log from a bare put.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import grpc

from gowork.leader.log._etcd import etcd_pb2 as pb
from gowork.leader.log._etcd import etcd_pb2_grpc as rpc
from gowork.leader.log._etcd.endpoints import Endpoints

_SECONDS = 30.0
#: How many of the newest entries are read at most.
_READ_MAX = 200
#: Numbers the raw logs of this process, so that each has keys of its own.
_numbers = itertools.count(1)


class RawLog:
    """A log of its own in an etcd. A context manager.

    Args:
        address: HOST:PORT of a member.
        prefix: what the keys of gowork's log begin with, of which entries are read.
    """

    def __init__(self, address: str, prefix: str) -> None:
        self._channel: grpc.Channel = Endpoints((address,)).blocking_channel(address)
        self._kv = rpc.KVStub(self._channel)
        self._of = prefix
        #: What its own keys begin with.
        self.keys = f"raw{next(_numbers)}"
        self._held = 0
        self._count = 0
        self._singles: Sequence[bytes] = ()

    def __enter__(self) -> RawLog:
        put = pb.RequestOp(request_put=pb.PutRequest(key=self._leader, value=b"raw"))
        self._held = self._kv.Txn(pb.TxnRequest(success=[put]), timeout=_SECONDS).header.revision
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def newest(self, entries: int) -> list[bytes]:
        """Returns the newest entries of gowork's log as etcd has them, those in several parts without their parts."""
        start, end = f"{self._of}/log/".encode(), f"{self._of}/log0".encode()
        request = pb.RangeRequest(
            key=start, range_end=end, limit=min(entries, _READ_MAX), sort_order=pb.RangeRequest.DESCEND
        )
        return [found.value for found in self._kv.Range(request, timeout=_SECONDS).kvs]

    def append(self, data: bytes) -> None:
        """Appends an entry, and returns when etcd has it durably."""
        self._count += 1
        held = pb.Compare(
            key=self._leader, target=pb.Compare.CREATE, result=pb.Compare.EQUAL, create_revision=self._held
        )
        put = pb.PutRequest(key=f"{self.keys}/log/{self._count:016x}".encode(), value=data)
        request = pb.TxnRequest(compare=[held], success=[pb.RequestOp(request_put=put)])
        if not self._kv.Txn(request, timeout=_SECONDS).succeeded:
            raise RuntimeError("etcd lost a key that nobody removed")

    def seconds_each(self, entries: Sequence[bytes]) -> float:
        """Appends these entries, and returns how long one took on average."""
        began = time.perf_counter()
        for data in entries:
            self.append(data)
        return (time.perf_counter() - began) / len(entries)

    def sync(self) -> None:
        """Appends what gowork wrote last: the entry of a single task, when tasks run one at a time."""
        if not self._singles:
            self._singles = self.newest(2)
        self.append(self._singles[self._count % len(self._singles)])

    @property
    def _leader(self) -> bytes:
        return f"{self.keys}/leader".encode()
