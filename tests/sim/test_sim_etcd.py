"""The simulated etcd answers as a real one does."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from real_etcd import real_etcd
from sim_etcd import SimEtcd, SimEtcdError
from sim_etcd_calls import Watching

from gowork.leader.log._etcd import etcd_pb2 as pb
from gowork.leader.log._etcd import etcd_pb2_grpc as rpc

pytestmark = pytest.mark.tool("etcd")

#: Long enough that no lease ends by itself.
_LONG = 600
_SENTINEL = b"~"

keys = st.sampled_from([b"a", b"a\0", b"ab", b"b", b"c", b"\0", b""])
some_keys = st.sampled_from([b"a", b"ab", b"b", b"c"])
ends = st.sampled_from([b"", b"a", b"b", b"c", b"d", b"\0"])
values = st.sampled_from([b"", b"1", b"2", b"10"])
leases = st.integers(1, 3)
#: Counted from the revision at which an example begins.
revisions = st.integers(-1, 8)


class StillClock:
    """Time does not pass."""

    def now(self) -> float:
        return 0.0

    def later(self, seconds: float, function: object) -> object:
        return None


class Real:
    """A real etcd. Its stubs are called with what the simulated one is asked."""

    def __init__(self, channel: grpc.Channel) -> None:
        kv, lease, maintenance = rpc.KVStub(channel), rpc.LeaseStub(channel), rpc.MaintenanceStub(channel)
        self._watch = rpc.WatchStub(channel).Watch
        self._methods: dict[type, Any] = {
            pb.RangeRequest: kv.Range,
            pb.TxnRequest: kv.Txn,
            pb.CompactionRequest: kv.Compact,
            pb.LeaseGrantRequest: lease.LeaseGrant,
            pb.LeaseRevokeRequest: lease.LeaseRevoke,
            pb.LeaseKeepAliveRequest: lambda request: next(lease.LeaseKeepAlive(iter([request]))),
            pb.AlarmRequest: maintenance.Alarm,
        }

    def do(self, request: Any) -> Any:
        return self._methods[type(request)](request)

    def watch(self, asked: pb.WatchCreateRequest, until: int) -> list[pb.WatchResponse]:
        """Returns what a watch answers until it has told a revision, or is cancelled."""
        requests: queue.SimpleQueue[pb.WatchRequest | None] = queue.SimpleQueue()
        requests.put(pb.WatchRequest(create_request=asked))
        call = self._watch(iter(requests.get, None))
        answers = []
        for answer in call:
            if not answer.created:
                answers.append(answer)
            if answer.canceled or (answer.events and answer.events[-1].kv.mod_revision >= until):
                break
        call.cancel()
        requests.put(None)
        return answers


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Real]:
    with real_etcd(tmp_path_factory.mktemp("etcd")) as address, grpc.insecure_channel(address) as channel:
        grpc.channel_ready_future(channel).result(timeout=60)
        yield Real(channel)


@st.composite
def compares(draw: st.DrawFn) -> pb.Compare:
    result = draw(st.sampled_from([pb.Compare.EQUAL, pb.Compare.GREATER, pb.Compare.LESS, pb.Compare.NOT_EQUAL]))
    made = pb.Compare(key=draw(keys), range_end=draw(ends), result=result)
    match draw(st.integers(0, 5)):
        case 0:
            made.target, made.version = pb.Compare.VERSION, draw(st.integers(0, 3))
        case 1:
            made.target, made.create_revision = pb.Compare.CREATE, draw(revisions)
        case 2:
            made.target, made.mod_revision = pb.Compare.MOD, draw(revisions)
        case 3:
            made.target, made.lease = pb.Compare.LEASE, draw(st.integers(0, 3))
        case 4:
            made.target, made.create_revision = pb.Compare.CREATE, _ABSENT
        case _:
            made.target, made.value = pb.Compare.VALUE, draw(values)
    return made


#: Stands for the create revision 0 of a key that is not there, because others are relative.
_ABSENT = -1_000_000

ranges = st.builds(
    pb.RangeRequest,
    key=keys,
    range_end=ends,
    limit=st.integers(0, 3),
    keys_only=st.booleans(),
    count_only=st.integers(0, 5).map(lambda drawn: drawn == 0),
    sort_order=st.integers(0, 2),
)
puts = st.builds(pb.PutRequest, key=st.one_of(some_keys, keys), value=values, lease=st.sampled_from([0, 0, 0, 1, 2, 3]))
deletes = st.builds(pb.DeleteRangeRequest, key=keys, range_end=ends)
operations = st.lists(
    st.one_of(
        st.builds(pb.RequestOp, request_range=ranges),
        st.builds(pb.RequestOp, request_put=puts),
        st.builds(pb.RequestOp, request_delete_range=deletes),
    ),
    max_size=3,
)
requests = st.one_of(
    ranges,
    st.builds(pb.TxnRequest, compare=st.lists(compares(), max_size=2), success=operations, failure=operations),
    # A put that surely counts, so that there is something to read, compare and remove.
    st.builds(
        lambda put: pb.TxnRequest(success=[pb.RequestOp(request_put=put)]),
        st.builds(pb.PutRequest, key=some_keys, value=values, lease=st.sampled_from([0, 0, 1])),
    ),
    st.builds(pb.CompactionRequest, revision=revisions),
    st.builds(pb.LeaseGrantRequest, ID=leases, TTL=st.sampled_from([_LONG, _LONG + 1])),
    st.builds(pb.LeaseRevokeRequest, ID=leases),
    st.builds(pb.LeaseKeepAliveRequest, ID=leases),
    st.builds(
        pb.AlarmRequest,
        action=st.sampled_from([pb.AlarmRequest.ACTIVATE, pb.AlarmRequest.DEACTIVATE]),
        alarm=st.just(pb.NOSPACE),
    ),
)


@pytest.mark.longer
@given(asked=st.lists(requests, min_size=1, max_size=14), watched=st.tuples(some_keys, ends))
@settings(max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
def test_it_answers_each_request_and_each_watch_as_a_real_one(
    real: Real, asked: Sequence[Any], watched: tuple[bytes, bytes]
) -> None:
    start = _empty(real)
    sim = SimEtcd(StillClock())
    sim.revision = start
    for request in asked:
        request = _from(start, request)
        assert _answer(sim, request) == _answer(real, request), request
    key, end = watched
    sim.is_full = False
    # The last change in the range tells where the watches end.
    last = pb.TxnRequest(success=[pb.RequestOp(request_put=pb.PutRequest(key=key, value=_SENTINEL))])
    real.do(pb.AlarmRequest(action=pb.AlarmRequest.DEACTIVATE, alarm=pb.NOSPACE))
    assert _answer(sim, last) == _answer(real, last)
    for revision in range(max(sim.compacted, start + 1), sim.revision + 1):
        watch = pb.WatchCreateRequest(key=key, range_end=end if end > key else b"", start_revision=revision)
        told = _told(real.watch(watch, sim.revision))
        assert told == _told(_all(Watching(sim, watch))), watch
    if sim.compacted > 1:
        watch = pb.WatchCreateRequest(key=key, start_revision=sim.compacted - 1)
        (canceled,) = real.watch(watch, sim.revision)
        assert canceled.canceled
        expected = Watching(sim, watch).next_answer()
        assert expected is not None
        assert (canceled.compact_revision, canceled.canceled) == (expected.compact_revision, expected.canceled)


def test_a_lease_lasts_at_least_two_seconds_and_takes_its_keys_along(real: Real) -> None:
    _empty(real)
    granted = real.do(pb.LeaseGrantRequest(TTL=1))
    assert granted.TTL == SimEtcd(StillClock()).do(pb.LeaseGrantRequest(TTL=1)).TTL
    put = [pb.RequestOp(request_put=pb.PutRequest(key=each, lease=granted.ID)) for each in (b"b", b"a")]
    revision = real.do(pb.TxnRequest(success=put)).header.revision
    watch = pb.WatchCreateRequest(key=b"\0", range_end=b"\0", start_revision=revision + 1)
    (answer,) = real.watch(watch, revision + 1)
    assert [(event.type, event.kv.key, event.kv.mod_revision) for event in answer.events] == [
        (pb.Event.DELETE, b"a", revision + 1),
        (pb.Event.DELETE, b"b", revision + 1),
    ]


def _empty(real: Real) -> int:
    """Empties the etcd. Returns its revision."""
    real.do(pb.AlarmRequest(action=pb.AlarmRequest.DEACTIVATE, alarm=pb.NOSPACE))
    for lease in (1, 2, 3):
        try:
            real.do(pb.LeaseRevokeRequest(ID=lease))
        except grpc.RpcError:
            pass
    everything = pb.DeleteRangeRequest(key=b"\0", range_end=b"\0")
    # Two revisions more, so that what is relative to the first is above what was compacted before.
    for put in (b"1", b"2"):
        write = [pb.RequestOp(request_put=pb.PutRequest(key=b"x", value=put))]
        real.do(pb.TxnRequest(success=write))
    return int(real.do(pb.TxnRequest(success=[pb.RequestOp(request_delete_range=everything)])).header.revision)


def _from(start: int, request: Any) -> Any:
    """Returns the request with revisions that were counted from the beginning of the example."""
    made = type(request).FromString(request.SerializeToString())
    if isinstance(made, pb.CompactionRequest):
        made.revision = max(start + made.revision, 1)
    if isinstance(made, pb.TxnRequest):
        for compare in made.compare:
            if compare.target == pb.Compare.CREATE:
                compare.create_revision = max(start + compare.create_revision, 0)
            if compare.target == pb.Compare.MOD:
                compare.mod_revision = max(start + compare.mod_revision, 0)
    return made


def _answer(etcd: SimEtcd | Real, request: Any) -> object:
    """Returns an answer, or an error, without what says which etcd it was."""
    try:
        answer: Any = etcd.do(request)
    except SimEtcdError as error:
        return error.code, error.details
    except grpc.RpcError as error:
        return error.code(), error.details()
    answer = type(answer).FromString(answer.SerializeToString())
    _strip(answer)
    return answer


def _strip(message: Any) -> None:
    if isinstance(message, pb.AlarmResponse):
        message.ClearField("header")
    for field, value in message.ListFields():
        if field.name == "header":
            for name in ("cluster_id", "member_id", "raft_term"):
                value.ClearField(name)
        elif field.name == "alarms":
            for alarm in value:
                alarm.ClearField("memberID")
        elif field.name == "responses":
            for response in value:
                _strip(getattr(response, response.WhichOneof("response")))


def _told(answers: Sequence[pb.WatchResponse]) -> list[pb.Event]:
    assert not any(answer.canceled for answer in answers)
    return [event for answer in answers for event in answer.events]


def _all(watching: Watching) -> list[pb.WatchResponse]:
    answers = []
    while (answer := watching.next_answer()) is not None:
        answers.append(answer)
    return answers
