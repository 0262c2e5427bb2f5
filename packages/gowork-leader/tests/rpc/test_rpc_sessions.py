"""Worker sessions, spoken by hand: what a good worker may rely on, and what a bad one can't do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import grpc
import pytest
from leader_serving import COMPLETED, PATIENCE, ServedLeader, refused, serving

from gowork.leader._core.state import Settings
from gowork.leader._rpc import sessions
from gowork.proto.cluster.v1 import leader_pb2 as cpb
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.worker.v1 import session_pb2 as spb

INVALID = grpc.StatusCode.INVALID_ARGUMENT
MANY = {f"key{n}": "" for n in range(65)}


async def member(leader: ServedLeader, id: str) -> cpb.Member:
    members = (await leader.cluster.Members(cpb.MembersRequest(), timeout=PATIENCE)).members
    return next(member for member in members if member.id == id)


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"name": ""}, "hello.name", "1 to 256 bytes"),
        ({"name": "n" * 257}, "hello.name", "257 bytes; the limit is 256"),
        ({"name": "a\nb"}, "hello.name", "U+000A"),
        ({"instance": ""}, "hello.instance", "1 to 256 bytes"),
        ({"instance": "i" * 257}, "hello.instance", "the limit is 256"),
        ({"slots": 0}, "hello.slots", "is 0; 1 to 10000"),
        ({"slots": -1}, "hello.slots", "is -1; 1 to 10000"),
        ({"slots": 10_001}, "hello.slots", "is 10001; 1 to 10000"),
        ({"handlers": [spb.HandlerInfo()]}, "hello.handlers[0].name", "is empty"),
        ({"handlers": [spb.HandlerInfo(name="h" * 129)]}, "hello.handlers[0].name", "up to 128 bytes"),
        (
            {"handlers": [spb.HandlerInfo(name="h", retry=pb.RetryPolicy(max_attempts=1001))]},
            "hello.handlers[0].retry.max_attempts",
            "1001; 0 to 1000",
        ),
        (
            {"handlers": [spb.HandlerInfo(name=f"h{n}") for n in range(10_001)]},
            "hello.handlers",
            "10001 handlers; the limit is 10000",
        ),
        ({"labels": MANY}, "hello.labels", "65 entries; the limit is 64"),
        ({"labels": {"k": "v" * 254}}, "hello.labels['k']", "253 bytes"),
        ({"version": "1" * 129}, "hello.version", "up to 128 bytes"),
        ({"ended_instances": ["i"] * 17}, "hello.ended_instances", "17 instances; the limit is 16"),
        ({"ended_instances": ["i", ""]}, "hello.ended_instances[1]", "is empty"),
        ({"queues": ["q"] * 65}, "hello.queues", "65 queues; the limit is 64"),
        ({"queues": ["q", ""]}, "hello.queues[1]", "is empty"),
        ({"queues": ["q" * 129]}, "hello.queues[0]", "up to 128 bytes"),
        ({"queues": ["q\n"]}, "hello.queues[0]", "printable"),
        ({"held": [spb.Held(id="")]}, "hello.held[0].id", "is empty"),
        ({"held": [spb.Held(id="a", state=9)]}, "hello.held[0].state", "unknown value 9"),  # type: ignore[arg-type]
    ],
)
async def test_a_bad_hello_is_refused(leader: ServedLeader, fields: dict[str, Any], field: str, words: str) -> None:
    session = leader.session()
    hello: dict[str, Any] = {"name": "w", "instance": "i", "slots": 1}
    await session.send(hello=spb.Hello(**hello | fields))
    refusal = await session.refusal()
    assert (refusal.code, [violation.field for violation in refusal.violations]) == (INVALID, [field])
    assert words in refusal.violations[0].description
    assert not (await leader.cluster.Members(cpb.MembersRequest(), timeout=PATIENCE)).members


async def test_a_first_frame_without_a_hello_is_refused(leader: ServedLeader) -> None:
    session = leader.session()
    await session.send(credit=[1])
    refusal = await session.refusal()
    assert (refusal.code, [violation.field for violation in refusal.violations]) == (INVALID, ["hello"])


async def test_a_stream_that_ends_before_its_hello_is_refused(leader: ServedLeader) -> None:
    session = leader.session()
    await session.call.done_writing()
    refusal = await session.refusal()
    assert (refusal.code, refusal.reason) == (INVALID, "NO_HELLO")


async def test_a_second_hello_is_refused(leader: ServedLeader) -> None:
    async with leader.worker("w") as session:
        await session.hello("other")
        refusal = await session.refusal()
    assert (refusal.code, [violation.field for violation in refusal.violations]) == (INVALID, ["hello"])
    assert "first frame" in refusal.violations[0].description


async def test_bytes_that_are_no_protobuf_end_a_session_and_its_tasks_go_back(leader: ServedLeader) -> None:
    hello = spb.ConnectRequest(hello=spb.Hello(name="w", instance="i", slots=1, handlers=[spb.HandlerInfo(name="h")]))
    connect: Any = leader.channel.stream_stream(
        "/worker.v1.SessionService/Connect", response_deserializer=spb.ConnectResponse.FromString
    )
    call = connect(timeout=PATIENCE)
    await leader.submit("a")
    await call.write(hello.SerializeToString())
    await call.write(spb.ConnectRequest(credit=[1]).SerializeToString())
    while not (await call.read()).grants:
        pass
    await call.write(b"\xff\xff\xff")
    refusal = await refused(call.read())
    assert (refusal.code, refusal.reason) == (INVALID, "NOT_PROTOBUF")
    async with leader.worker("other") as other:
        assert (await other.grant()).id == "a"


async def test_a_worker_is_welcomed_with_the_terms_of_its_lease(tmp_path: Path) -> None:
    async with serving(tmp_path, settings=Settings(lease=6, reconnect_grace=2)) as leader:
        session = leader.session()
        await session.hello()
        welcome = await session.welcome()
        assert welcome.reads_completions
        assert welcome.heeds_queues
        assert welcome.heeds_on_lost
        assert welcome.keeps_checkpoints
        assert (welcome.term, welcome.lease_ms, welcome.heartbeat_ms, welcome.reconnect_grace_ms) == (
            1,
            6000,
            2000,
            2000,
        )
        session.call.cancel()


async def test_a_worker_is_granted_no_more_than_its_credit(leader: ServedLeader) -> None:
    await leader.submit(*(str(n) for n in range(10)))
    async with leader.worker(credit=3) as session:
        first = await session.grants(3)
        assert [grant.id for grant in first] == ["0", "1", "2"]
        await session.report(*first)
        assert not session.refused
        stats = await leader.scheduler.Stats(pb.StatsRequest(), timeout=PATIENCE)
        assert {queue.status: queue.tasks for queue in stats.queues} == {
            pb.TASK_STATUS_PENDING: 7,
            pb.TASK_STATUS_COMPLETED: 3,
        }
        # The last one counts, and it never shrinks.
        await session.send(credit=[4, 2, 5])
        assert [grant.id for grant in await session.grants(2)] == ["3", "4"]


async def test_a_grant_says_how_many_attempts_have_counted_where_its_number_does_not_tell(leader: ServedLeader) -> None:
    await leader.submit("a", retry=pb.RetryPolicy(max_attempts=9, initial_delay_ms=1))
    said = []
    async with leader.worker() as session:
        for outcome in (
            pb.ATTEMPT_OUTCOME_FAILED,
            pb.ATTEMPT_OUTCOME_INTERRUPTED,
            pb.ATTEMPT_OUTCOME_FAILED,
            pb.ATTEMPT_OUTCOME_UNSPECIFIED,
        ):
            grant = await session.grant()
            said.append((grant.attempt, grant.attempts_used if grant.HasField("attempts_used") else None))
            if outcome:
                await session.report(grant, outcome=outcome)
    assert said == [(1, None), (2, None), (3, 1), (4, 2)]


async def test_a_grant_says_what_task_it_is_of_and_that_it_runs_alone_once_it_was_lost(leader: ServedLeader) -> None:
    await leader.submit("a", payload="p")
    async with leader.worker() as session:
        grants = [await session.grant()]
        await session.report(grants[0], outcome=pb.ATTEMPT_OUTCOME_LOST)
        grants.append(await session.grant())
    assert [(grant.id, grant.attempt, grant.alone) for grant in grants] == [("a", 1, False), ("a", 2, True)]
    assert [pb.Task.FromString(grant.task).payload for grant in grants] == ["p", "p"]
    assert grants[0].fence < grants[1].fence


async def test_fences_grow_with_every_grant_and_across_leaders(tmp_path: Path) -> None:
    fences: list[int] = []
    for n in range(3):
        async with serving(tmp_path) as leader:
            await leader.submit(f"a{n}", f"b{n}")
            async with leader.worker(f"w{n}") as session:
                grants = await session.grants(2)
                fences += [grant.fence for grant in grants]
                await session.report(*grants)
    assert fences == sorted(set(fences))


async def test_a_report_on_a_task_that_the_worker_does_not_hold_is_refused_and_changes_nothing(
    leader: ServedLeader,
) -> None:
    await leader.submit("held", "pending", labels={"x": "y"})
    async with leader.worker("holder", credit=1) as holder, leader.worker("liar", credit=0) as liar:
        grant = await holder.grant()
        lies = [
            spb.Grant(id="held", fence=grant.fence),
            spb.Grant(id="held", fence=grant.fence + 1),
            spb.Grant(id="pending", fence=1),
            spb.Grant(id="unknown", fence=2),
            spb.Grant(id="", fence=(1 << 64) - 1),
        ]
        await liar.report(*lies, result="1")
        assert liar.refused == {lie.fence for lie in lies}
        assert (await leader.get("held")).status == pb.TASK_STATUS_RUNNING
        assert (await leader.get("pending")).status == pb.TASK_STATUS_PENDING
        # The holder's own report is taken all the same, once.
        await holder.report(grant, result="2")
        holder.acknowledged.clear()
        await holder.report(spb.Grant(id="pending", fence=grant.fence))
        assert holder.refused == {grant.fence}
    held = await leader.get("held")
    assert (held.status, held.result, held.worker) == (pb.TASK_STATUS_COMPLETED, "2", "holder")


async def test_a_report_that_is_sent_again_is_acknowledged_again(leader: ServedLeader) -> None:
    await leader.submit("a")
    async with leader.worker() as session:
        grant = await session.grant()
        await session.report(grant, result="1")
        session.acknowledged.clear()
        await session.report(grant, result="1")
        assert not session.refused
    assert len((await leader.get("a")).attempts) == 1


async def test_completions_that_are_sent_again_are_acknowledged_again(leader: ServedLeader) -> None:
    await leader.submit("a", "b")
    async with leader.worker() as session:
        grants = await session.grants(2)
        await session.complete(*grants, results=["1", "2"])
        session.acknowledged.clear()
        # The leader has forgotten the tasks by now, and looks into its store.
        await session.complete(*grants, results=["3", "4"])
        assert not session.refused
    assert [(await leader.get(id)).result for id in "ab"] == ["1", "2"]


async def test_a_report_with_an_unknown_outcome_fails_its_task_and_says_so(leader: ServedLeader) -> None:
    await leader.submit("a")
    async with leader.worker() as session:
        unknown: Any = 99
        await session.report(await session.grant(), outcome=unknown)
    task = await leader.get("a")
    assert (task.status, task.failure.kind) == (pb.TASK_STATUS_ERROR, pb.FAILURE_KIND_REJECTED)
    assert "unknown outcome 99" in task.failure.message


async def test_a_result_over_the_limit_fails_its_task_and_names_the_limit(leader: ServedLeader) -> None:
    await leader.submit("a")
    async with leader.worker() as session:
        await session.report(await session.grant(), result="x" * (1 << 20), result_data=b"x")
    task = await leader.get("a")
    assert (task.status, task.failure.kind) == (pb.TASK_STATUS_ERROR, pb.FAILURE_KIND_REJECTED)
    assert "1048577 bytes; the limit is 1048576" in task.failure.message


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"fences": [1]}, "completions[1].fences", "has 1 rows, and ids has 2"),
        ({"fences": [1, 2, 3]}, "completions[1].fences", "has 3 rows"),
        ({"execution_us": []}, "completions[1].execution_us", "has 0 rows"),
        ({"results": [""]}, "completions[1].results", "has 1 rows"),
        ({"result_data": [b""] * 3}, "completions[1].result_data", "has 3 rows"),
        ({"traceparents": [""]}, "completions[1].traceparents", "has 1 rows"),
        ({"ids": []}, "completions[1].fences", "has 2 rows, and ids has 0"),
        ({"ids": [""] * 10_001}, "completions[1].ids", "has 10001 rows; the limit is 10000"),
    ],
)
async def test_columns_of_different_lengths_end_the_session(
    leader: ServedLeader, fields: dict[str, Any], field: str, words: str
) -> None:
    await leader.submit("a")
    async with leader.worker("w") as session:
        grant = await session.grant()
        good: dict[str, Any] = {"ids": ["a", "b"], "fences": [grant.fence, 2], "execution_us": [1, 2]}
        bad = spb.Completions(**good | fields)
        await session.send(completions=[spb.Completions(**good), bad])
        refusal = await session.refusal()
    assert (refusal.code, [violation.field for violation in refusal.violations]) == (INVALID, [field])
    assert words in refusal.violations[0].description
    # None of the frame counts.
    assert (await leader.get("a")).status == pb.TASK_STATUS_RUNNING


async def test_completions_by_columns_are_recorded_as_reports_are(leader: ServedLeader) -> None:
    await leader.submit("a", "b", "c")
    async with leader.worker("w", credit=3) as session:
        grants = await session.grants(3)
        traces = ["", "no traceparent", f"00-{'1' * 32}-{'2' * 16}-01"]
        await session.complete(*grants, results=["1", "", ""], result_data=[b"", b"2", b""], traceparents=traces)
        assert not session.refused
    found = [await leader.get(id) for id in "abc"]
    assert [(task.status, task.result, task.result_data) for task in found] == [
        (pb.TASK_STATUS_COMPLETED, "1", b""),
        (pb.TASK_STATUS_COMPLETED, "", b"2"),
        (pb.TASK_STATUS_COMPLETED, "", b""),
    ]
    assert [task.attempts[0].traceparent for task in found] == ["", "", traces[2]]


async def test_a_result_over_the_limit_in_columns_fails_its_own_task(leader: ServedLeader) -> None:
    await leader.submit("a", "b")
    async with leader.worker("w", credit=2) as session:
        grants = await session.grants(2)
        await session.complete(*grants, results=["x" * (1 << 20), "x"], result_data=[b"y", b""])
    failed, completed = await leader.get("a"), await leader.get("b")
    assert (failed.status, failed.failure.kind) == (pb.TASK_STATUS_ERROR, pb.FAILURE_KIND_REJECTED)
    assert "1048577 bytes; the limit is 1048576" in failed.failure.message
    assert (completed.status, completed.result) == (pb.TASK_STATUS_COMPLETED, "x")


@pytest.mark.parametrize("outcome", [pb.ATTEMPT_OUTCOME_FAILED, pb.ATTEMPT_OUTCOME_SNOOZED])
async def test_the_longest_delay_that_a_worker_can_name_does_no_harm(
    leader: ServedLeader, outcome: pb.AttemptOutcome.ValueType
) -> None:
    await leader.submit("a", retry=pb.RetryPolicy(max_attempts=5))
    async with leader.worker() as session:
        await session.report(await session.grant(), outcome=outcome, retry_delay_ms=(1 << 63) - 1)
    task = await leader.get("a")
    assert task.status == pb.TASK_STATUS_PENDING
    assert "the next one may start in" in task.waiting_reason


async def test_a_failure_is_cut_to_its_limits(leader: ServedLeader) -> None:
    await leader.submit("a")
    failure = pb.Failure(message="ü" * 10_000, type="T" * 1000, traceback="a" * 20_000 + "end")
    async with leader.worker() as session:
        await session.report(await session.grant(), outcome=pb.ATTEMPT_OUTCOME_FAILED, failure=failure)
    kept = (await leader.get("a")).failure
    assert (len(kept.message.encode()), len(kept.type), len(kept.traceback)) == (4096, 128, 16_384)
    assert kept.traceback.endswith("end")
    assert kept.kind == pb.FAILURE_KIND_HANDLER


@pytest.mark.parametrize(
    ("fraction", "shown"), [(0.5, 0.5), (7.0, 1.0), (-1.0, 0.0), (float("nan"), 0.0), (float("inf"), 1.0)]
)
async def test_progress_is_kept_within_its_limits(leader: ServedLeader, fraction: float, shown: float) -> None:
    await leader.submit("a")
    async with leader.worker() as session:
        grant = await session.grant()
        watch = leader.scheduler.WatchTasks(pb.WatchTasksRequest(view=pb.TASK_VIEW_FULL), timeout=PATIENCE)
        await watch.read()
        reports = [
            spb.ProgressReport(id="a", fence=grant.fence + 1, fraction=0.9, message="of another attempt"),
            spb.ProgressReport(id="a", fence=grant.fence, fraction=fraction, message="x" * 2000),
        ]
        await session.send(progress=reports)
        (task,) = (await watch.read()).tasks
        assert (task.progress.fraction, len(task.progress.message)) == (shown, 1024)
        watch.cancel()


async def test_a_worker_that_goes_silent_loses_its_session_and_its_tasks(tmp_path: Path) -> None:
    async with serving(tmp_path, settings=Settings(lease=0.3)) as leader:
        await leader.submit("a")
        async with leader.worker("silent") as silent:
            fence = (await silent.grant()).fence
            refusal = await silent.refusal()
            assert (refusal.code, refusal.reason) == (grpc.StatusCode.UNAVAILABLE, "LEASE_EXPIRED")
            assert "0.3 s" in refusal.message
            assert (await member(leader, "silent")).liveness == cpb.MEMBER_LIVENESS_LOST
            async with leader.worker("other") as other:
                again = await other.grant()
                assert (again.id, again.attempt) == ("a", 2)
                assert again.fence > fence
        task = await leader.get("a")
        assert task.attempts[0].outcome == pb.ATTEMPT_OUTCOME_LOST
        assert task.attempts_used == 0


async def test_each_heartbeat_is_answered_by_a_frame_of_its_own_once_the_worker_is_welcomed(
    leader: ServedLeader,
) -> None:
    session = leader.session()
    await session.hello("w")
    for _ in range(3):
        await session.send()
    await session.welcome()
    for _ in range(3):
        assert not (await session.frame()).ByteSize()
    # Other frames are no heartbeats.
    await session.send(credit=[1])
    await session.send()
    await leader.submit("a")
    await session.grant()
    await session.send()
    assert not (await session.frame()).ByteSize()
    session.call.cancel()


async def test_a_heartbeat_renews_the_lease(tmp_path: Path) -> None:
    async with serving(tmp_path, settings=Settings(lease=3.0)) as leader:
        async with leader.worker("beating") as beating, leader.worker("silent") as silent:
            refusal = asyncio.ensure_future(silent.refusal())
            while not refusal.done():
                await beating.send()
                await asyncio.wait({refusal}, timeout=0.1)
            await beating.send()
            assert (await member(leader, "silent")).liveness == cpb.MEMBER_LIVENESS_LOST
            assert (await member(leader, "beating")).liveness == cpb.MEMBER_LIVENESS_LIVE


async def test_tasks_go_elsewhere_when_a_stream_breaks_and_its_worker_stays_away(tmp_path: Path) -> None:
    async with serving(tmp_path, settings=Settings(reconnect_grace=0.1)) as leader:
        await leader.submit("a")
        async with leader.worker("w") as session:
            await session.grant()
        async with leader.worker("other") as other:
            assert (await other.grant()).attempt == 2


async def test_a_worker_that_is_back_within_the_grace_keeps_what_it_lists_and_gives_back_the_rest(
    tmp_path: Path,
) -> None:
    async with serving(tmp_path, settings=Settings(reconnect_grace=PATIENCE)) as leader:
        await leader.submit("running", "finished", "dropped")
        async with leader.worker("w") as session:
            running, finished, dropped = await session.grants(3)
        unknown = spb.Held(id="gone", fence=9, state=spb.HELD_STATE_RUNNING)
        held = [
            spb.Held(id="running", fence=running.fence, state=spb.HELD_STATE_RUNNING),
            spb.Held(id="finished", fence=finished.fence, state=spb.HELD_STATE_FINISHED),
            unknown,
        ]
        async with leader.worker("w", held=held) as again:
            await again.report(finished, running)
            assert not again.refused
            (regranted,) = await again.grants(1)
            assert (regranted.id, regranted.attempt) == ("dropped", 2)
            assert regranted.fence > dropped.fence
            assert again.released == {9}
        task = await leader.get("dropped")
        assert task.attempts[0].outcome == pb.ATTEMPT_OUTCOME_INTERRUPTED
        assert task.attempts_used == 0


async def test_the_same_instance_replaces_its_older_stream(leader: ServedLeader) -> None:
    async with leader.worker("w") as older, leader.worker("w") as newer:
        refusal = await older.refusal()
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.ABORTED, "SESSION_REPLACED")
        await leader.submit("a")
        assert (await newer.grant()).id == "a"


async def test_tasks_of_a_predecessor_that_has_ended_for_certain_run_again_at_once(tmp_path: Path) -> None:
    async with serving(tmp_path) as first, first.worker("w") as session:
        await first.submit("a")
        await session.grant()
    # The lease that the next leader gives to whoever is to come back is longer than this test's patience.
    async with serving(tmp_path, settings=Settings(lease=3600.0)) as leader:
        async with leader.worker("w", instance="w-2", ended_instances=["w-1"]) as session:
            assert (await session.grant()).id == "a"
            (attempt,) = (await leader.get("a")).attempts[:-1]
            assert (attempt.outcome, "restarted" in attempt.reason) == (pb.ATTEMPT_OUTCOME_LOST, True)


async def test_a_second_worker_of_a_live_name_is_turned_away(leader: ServedLeader) -> None:
    async with leader.worker("w", instance="first") as first:
        second = leader.session()
        await second.hello("w", instance="second")
        while not first.pings:
            await first.frame()
        await first.send(pongs=[1])
        refusal = await second.refusal()
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "NAME_TAKEN")
        assert "'w'" in refusal.message
        await leader.submit("a")
        assert (await first.grant()).id == "a"


async def test_a_second_worker_gets_the_name_of_one_that_does_not_answer(tmp_path: Path) -> None:
    async with serving(tmp_path, settings=Settings(challenge_wait=0.1)) as leader:
        async with leader.worker("w", instance="first") as first:
            second = leader.session()
            await second.hello("w", instance="second")
            assert (await second.welcome()).term == 1
            assert (await first.refusal()).reason == "SESSION_REPLACED"
            second.call.cancel()


async def test_a_session_and_a_callback_worker_do_not_share_a_name(leader: ServedLeader) -> None:
    await leader.cluster.Join(cpb.JoinRequest(id="callback", address="127.0.0.1:1"), timeout=PATIENCE)
    session = leader.session()
    await session.hello("callback")
    assert (await session.refusal()).code is grpc.StatusCode.ALREADY_EXISTS
    async with leader.worker("session"):
        join = leader.cluster.Join(cpb.JoinRequest(id="session", address="127.0.0.1:1"), timeout=PATIENCE)
        refusal = await refused(join)
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.ALREADY_EXISTS, "NAME_TAKEN")


async def test_sessions_past_the_limit_are_turned_away(tmp_path: Path) -> None:
    async with serving(tmp_path, settings=Settings(sessions_max=1)) as leader, leader.worker("a"):
        session = leader.session()
        await session.hello("b")
        refusal = await session.refusal()
    assert (refusal.code, refusal.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "TOO_MANY_SESSIONS")
    assert "1 sessions" in refusal.message


async def test_a_worker_that_leaves_is_told_so_by_the_end_of_its_stream(leader: ServedLeader) -> None:
    async with leader.worker("w") as session:
        await session.send(conditions=[spb.Condition(leaving=True)])
        with pytest.raises(EOFError):
            await session.frame()
    assert (await member(leader, "w")).liveness == cpb.MEMBER_LIVENESS_LEFT
    assert (await member(leader, "w")).status == "left, unknown"


async def test_a_draining_worker_gets_no_more(leader: ServedLeader) -> None:
    async with leader.worker("w") as session:
        await session.send(conditions=[spb.Condition(draining=True)])
        while (await member(leader, "w")).liveness != cpb.MEMBER_LIVENESS_DRAINING:
            pass
        await leader.submit("a")
        assert (await leader.get("a")).waiting_reason == "every worker that could run it is draining"


async def test_a_worker_is_told_to_drain_and_told_again_when_it_is_back(leader: ServedLeader) -> None:
    async with leader.worker("w") as session:
        await leader.cluster.Drain(cpb.DrainRequest(id="w", budget_ms=5000), timeout=PATIENCE)
        assert (await member(leader, "w")).liveness == cpb.MEMBER_LIVENESS_DRAINING
        await leader.submit("a")
        assert (await leader.get("a")).waiting_reason == "every worker that could run it is draining"
        assert await session.drain() == 5000
    again = leader.session()
    await again.hello("w")
    await again.welcome()
    assert await again.drain() == 5000
    again.call.cancel()


async def test_a_member_is_shown_with_all_that_it_said(leader: ServedLeader) -> None:
    hello: dict[str, Any] = {
        "handlers": ["z", "a"],
        "slots": 7,
        "labels": {"k": "v"},
        "version": "1.2",
        "plugin_errors": ["broken: " + "x" * 5000] * 100,
    }
    async with leader.worker("w", **hello):
        shown = await member(leader, "w")
    assert (list(shown.handlers), shown.slots, dict(shown.labels), shown.version) == (["a", "z"], 7, {"k": "v"}, "1.2")
    assert (shown.kind, shown.liveness, shown.status) == (
        cpb.MEMBER_KIND_SESSION,
        cpb.MEMBER_LIVENESS_LIVE,
        "alive, idle",
    )
    assert "127.0.0.1" in shown.address
    # Members are listed in one message: what they say of themselves is bounded.
    assert len(shown.plugin_errors) == 64
    assert all(len(error) <= 1024 for error in shown.plugin_errors)


@pytest.mark.parametrize("form", ["reports", "completions"])
async def test_a_stream_is_not_read_while_too_many_bytes_of_reports_wait(
    monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    monkeypatch.setattr(sessions, "REPORT_BYTES_WAITING_MAX", 100)
    report = spb.Report(fence=1, id="a", outcome=COMPLETED, result="x" * 60)
    columns = spb.Completions(ids=["a"], fences=[1], execution_us=[0], results=["x" * 60])
    frame = spb.ConnectRequest(reports=[report]) if form == "reports" else spb.ConnectRequest(completions=[columns])
    posted: list[asyncio.Future[None]] = []

    class Engine:
        """Deals with frames when the test says so."""

        wall_ns = staticmethod(lambda: 0)

        def post_frame(self, frame: Any) -> asyncio.Future[None]:
            posted.append(asyncio.get_running_loop().create_future())
            return posted[-1]

    async def requests() -> Any:
        for _ in range(5):
            yield frame

    served = sessions.Sessions(Settings())
    engine: Any = Engine()
    reading = asyncio.ensure_future(served._read(requests(), 1, engine, sessions._Stream(sessions._Unread())))
    for read in (2, 3, 4, 5):
        for _ in range(10):
            await asyncio.sleep(0)
        # The second frame takes the bytes beyond the bound, and each further one waits for one before it.
        assert len(posted) == read
        posted[read - 2].set_result(None)
    await reading
    assert len(posted) == 5


@pytest.mark.parametrize(
    ("frame", "told"),
    [
        ({"completions": [spb.Completions()] * 101}, "completions: has 101 messages; the limit is 100"),
        ({"reports": [spb.Report()] * 100_001}, "reports: has 100001 reports, with the rows of completions; the limit"),
        (
            {"reports": [spb.Report()] * 50_001, "completions": [spb.Completions(ids=[""] * 5_000)] * 10},
            "reports: has 100001 reports, with the rows of completions; the limit is 100000; send the rest in another",
        ),
        ({"progress": [spb.ProgressReport()] * 100_001}, "progress: has 100001 messages; the limit is 100000"),
    ],
    ids=["completions", "reports", "rows", "progress"],
)
async def test_what_a_frame_has_is_bounded(leader: ServedLeader, frame: dict[str, Any], told: str) -> None:
    async with leader.worker() as worker:
        await worker.send(**frame)
        refusal = await worker.refusal()
    assert refusal.message.startswith(told)
