"""The command `gowork leaders`, against a real leader, and against scripted ones that share a log."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest

from gowork.proto.cluster.v1 import leader_pb2 as pb
from gowork.proto.cluster.v1 import leader_pb2_grpc
from gowork.proto.status import Refusal, status_of


class ScriptedLeaders(leader_pb2_grpc.LeaderServiceServicer):
    """Answers for three leaders, of which `one` leads."""

    def __init__(self) -> None:
        now_ms = round(time.time() * 1000)
        self.answer = pb.LeadersResponse(
            leaders=[
                pb.Leader(
                    name="one",
                    store_id="aa11",
                    leads=True,
                    term=7,
                    leads_since_ms=now_ms - 3_600_000,
                    applied_index=1234,
                    forced_index=1200,
                    scheduler_address="10.0.0.1:50052",
                    version="0.2.0",
                    seen_at_ms=now_ms,
                ),
                pb.Leader(name="two", store_id="ab22", applied_index=1230, lag_entries=4, seen_at_ms=now_ms - 5_000),
                pb.Leader(name="two", store_id="cc33", seen_at_ms=now_ms - 7_200_000),
            ],
            log=pb.Log(generation="f00d", first_index=100, last_index=1234),
            answered_by="ab22",
        )
        self.removed: list[str] = []
        self.compared: list[int] = []
        self.at_first = pb.STORE_VERDICT_PENDING
        self.verdicts = [("one", "aa11", pb.STORE_VERDICT_EQUAL), ("two", "ab22", pb.STORE_VERDICT_OTHER_VERSION)]
        self.stepped_down: list[int] = []
        self.refusal: Refusal | None = None

    def Leaders(self, request: pb.LeadersRequest, context: grpc.ServicerContext) -> pb.LeadersResponse:
        return self.answer

    def CompareStores(
        self, request: pb.CompareStoresRequest, context: grpc.ServicerContext
    ) -> pb.CompareStoresResponse:
        self.compared.append(request.index)
        stores = [
            pb.ComparedStore(name=name, store_id=store_id, verdict=verdict if request.index else self.at_first)
            for name, store_id, verdict in self.verdicts
        ]
        return pb.CompareStoresResponse(index=1234, stores=stores)

    def StepDown(self, request: pb.StepDownRequest, context: grpc.ServicerContext) -> pb.StepDownResponse:
        self.stepped_down.append(request.term)
        if self.refusal is not None:
            refusal = self.refusal
            details = status_of(refusal).SerializeToString()
            context.set_trailing_metadata((("grpc-status-details-bin", details),))
            context.abort(refusal.code, refusal.message)
        return pb.StepDownResponse(leader=pb.Leader(name="two", store_id="ab22", leads=True, term=8))

    def RemoveLeader(self, request: pb.RemoveLeaderRequest, context: grpc.ServicerContext) -> pb.RemoveLeaderResponse:
        self.removed.append(request.store_id)
        return pb.RemoveLeaderResponse()


@pytest.fixture
def leaders() -> ScriptedLeaders:
    return ScriptedLeaders()


@pytest.fixture
def call(leaders: ScriptedLeaders, invoke: Callable[..., object]) -> Iterator[Callable[..., object]]:
    """Runs `gowork` with these arguments."""
    with ThreadPoolExecutor(2) as pool:
        server = grpc.server(pool, options=[("grpc.so_reuseport", 0)])
        leader_pb2_grpc.add_LeaderServiceServicer_to_server(leaders, server)
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield lambda *arguments: invoke(["--leader", f"127.0.0.1:{port}", *arguments])
        finally:
            server.stop(0).wait()


@pytest.fixture
def run(call: Callable[..., object]) -> Callable[..., object]:
    """Runs `gowork leaders` with these arguments."""
    return lambda *arguments: call("leaders", *arguments)


def test_leaders_are_a_table_with_the_one_that_leads_and_the_log(run) -> None:
    result = run()
    assert result.exit_code == 0
    heading, one, two, _, log = result.stdout.splitlines()
    assert heading.split() == [
        *("NAME", "LEADS", "TERM", "SINCE", "APPLIED", "FORCED", "LAG", "SEEN", "VERSION", "ADDRESS", "STORE")
    ]
    assert one.split()[:3] == ["one", "leads", "7"]
    assert "1 h 00 m ago" in one
    for word in ("1,234", "1,200", "0.2.0", "10.0.0.1:50052", "aa11"):
        assert word in one
    assert "leads" not in two
    assert " 4 " in two
    assert "ab22" in two
    assert log == "log f00d: entries 100 to 1,234"
    assert run("list").stdout.splitlines()[0] == heading


def test_leaders_are_one_json_document(run) -> None:
    told = json.loads(run("-o", "json").stdout)
    assert [leader["name"] for leader in told["leaders"] if leader["leads"]] == ["one"]
    assert told["leaders"][1]["lag_entries"] == 4
    assert told["leaders"][1]["leads_since"] is None
    assert told["leaders"][0]["seen_at"].endswith("Z")
    assert told["log"] == {"generation": "f00d", "first_index": 100, "last_index": 1234}
    assert told["answered_by"] == "ab22"


def test_it_says_that_no_leader_leads(run, leaders: ScriptedLeaders) -> None:
    leaders.answer.leaders[0].leads = False
    assert "no leader leads now" in run().stdout
    refused = run("step-down", "--yes")
    assert refused.exit_code == 1
    assert "no leader leads now" in refused.stderr
    assert leaders.stepped_down == []


def test_a_leader_without_a_log_is_listed_alone(gowork) -> None:
    (lone,) = json.loads(gowork("leaders", "-o", "json").stdout)["leaders"]
    assert lone["leads"]
    assert lone["leads_since"]
    assert "log" not in gowork("leaders").stdout.splitlines()[-1]
    refused = gowork("leaders", "step-down", "--yes")
    assert refused.exit_code == 1
    assert "--log" in refused.stderr


def test_step_down_names_the_term_that_is_to_end_and_who_leads_then(run, leaders: ScriptedLeaders) -> None:
    result = run("step-down", "--yes")
    assert (result.exit_code, result.stdout) == (0, "two leads now, in term 8\n")
    assert leaders.stepped_down == [7]
    assert json.loads(run("step-down", "--yes", "-o", "json").stdout)["name"] == "two"


def test_step_down_asks_first(run, leaders: ScriptedLeaders) -> None:
    result = run("step-down")
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert leaders.stepped_down == []


def test_step_down_that_no_other_leader_can_follow_fails_with_the_reason(run, leaders: ScriptedLeaders) -> None:
    leaders.refusal = Refusal(grpc.StatusCode.FAILED_PRECONDITION, "NO_SUCCESSOR", "no other leader can take over: x")
    result = run("step-down", "--yes")
    assert result.exit_code == 1
    assert "no other leader can take over: x" in result.stderr


@pytest.mark.parametrize(("word", "store_id"), [("aa11", "aa11"), ("one", "aa11"), ("c", "cc33"), ("ab", "ab22")])
def test_a_leader_is_removed_by_store_name_or_beginning(
    run, leaders: ScriptedLeaders, word: str, store_id: str
) -> None:
    result = run("remove", word)
    assert result.exit_code == 0
    assert store_id in result.stdout
    assert leaders.removed == [store_id]
    assert json.loads(run("remove", word, "-o", "json").stdout)["store_id"] == store_id


@pytest.mark.parametrize(
    ("word", "words"), [("two", "ab22, cc33"), ("a", "aa11, ab22"), ("onn", "did you mean 'one'?"), ("", "no leader")]
)
def test_what_names_none_or_several_is_not_removed(run, leaders: ScriptedLeaders, word: str, words: str) -> None:
    result = run("remove", word)
    assert result.exit_code == 1
    assert words in result.stderr
    assert leaders.removed == []


def test_stores_are_compared_until_nothing_is_pending(
    call, leaders: ScriptedLeaders, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gowork.cli.commands.store.AGAIN_SECONDS", 0.01)
    result = call("store", "compare")
    assert result.exit_code == 0
    heading, one, two, last = result.stdout.splitlines()
    assert heading.split() == ["NAME", "VERDICT", "STORE"]
    assert one.split() == ["one", "equal", "aa11"]
    assert two.split() == ["two", "other", "version", "ab22"]
    assert last == "compared at entry 1,234 of the log"
    assert leaders.compared == [0, 1234]


@pytest.mark.parametrize(("wait", "verdict"), [("60", "DIFFERS"), ("0", "PENDING")])
def test_a_comparison_fails_when_a_store_differs_or_stays_pending(
    call, leaders: ScriptedLeaders, monkeypatch: pytest.MonkeyPatch, wait: str, verdict: str
) -> None:
    monkeypatch.setattr("gowork.cli.commands.store.AGAIN_SECONDS", 0.01)
    leaders.verdicts[1] = ("two", "ab22", pb.STORE_VERDICT_DIFFERS)
    result = call("store", "compare", "--wait", wait, "-o", "json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert told["index"] == 1234
    assert told["stores"][1] == {"name": "two", "store_id": "ab22", "verdict": verdict}
