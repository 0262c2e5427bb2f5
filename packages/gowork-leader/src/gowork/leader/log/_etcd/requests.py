"""Makes the requests and comparisons of which transactions consist."""

from __future__ import annotations

from gowork.leader.log._etcd import etcd_pb2 as pb


def get(
    key: bytes, end: bytes = b"", *, limit: int = 0, keys_only: bool = False, descending: bool = False
) -> pb.RequestOp:
    """Reads a key, or all from `key` up to `end`."""
    order = pb.RangeRequest.DESCEND if descending else pb.RangeRequest.NONE
    return pb.RequestOp(
        request_range=pb.RangeRequest(key=key, range_end=end, limit=limit, keys_only=keys_only, sort_order=order)
    )


def put(key: bytes, value: bytes, lease: int = 0) -> pb.RequestOp:
    """Writes a key."""
    return pb.RequestOp(request_put=pb.PutRequest(key=key, value=value, lease=lease))


def delete(key: bytes, end: bytes = b"") -> pb.RequestOp:
    """Removes a key, or all from `key` up to `end`."""
    return pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=key, range_end=end))


def held(key: bytes, token: int) -> pb.Compare:
    """The key is the one that was created at the revision `token`."""
    return pb.Compare(key=key, target=pb.Compare.CREATE, result=pb.Compare.EQUAL, create_revision=token)


def absent(key: bytes) -> pb.Compare:
    """The key is not there."""
    return held(key, 0)


def empty(key: bytes, end: bytes) -> pb.Compare:
    """No key from `key` up to `end` is there."""
    return pb.Compare(key=key, range_end=end, target=pb.Compare.CREATE, result=pb.Compare.EQUAL, create_revision=0)


def present(key: bytes) -> pb.Compare:
    """The key is there."""
    return pb.Compare(key=key, target=pb.Compare.CREATE, result=pb.Compare.GREATER, create_revision=0)


def holds_value(key: bytes, value: bytes) -> pb.Compare:
    """The key is there, and has this value."""
    return pb.Compare(key=key, target=pb.Compare.VALUE, result=pb.Compare.EQUAL, value=value)
