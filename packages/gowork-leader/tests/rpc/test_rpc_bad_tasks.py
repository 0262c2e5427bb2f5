"""Tasks that break a rule of the contract are refused: the error names the field and the limit, and nothing is kept."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from leader_serving import PATIENCE, ServedLeader, refused

from gowork.leader._core.ranges import RANGE_KEY
from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb

INVALID = grpc.StatusCode.INVALID_ARGUMENT
MANY = {f"key{n}": "" for n in range(65)}
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

#: (what is wrong with the task, the field that the error names, words that it has)
BAD_TASKS: list[tuple[dict[str, Any], str, str]] = [
    ({"id": ""}, "id", "empty; 1 to 256 bytes"),
    ({"id": "x" * 257}, "id", "257 bytes; the limit is 256"),
    ({"id": "ü" * 129}, "id", "258 bytes; the limit is 256"),
    ({"id": "a\nb"}, "id", "U+000A"),
    ({"id": "a\x00"}, "id", "U+0000"),
    ({"id": "a\u202eb"}, "id", "U+202E RIGHT-TO-LEFT OVERRIDE"),
    ({"handler": "", "payload": ""}, "payload", "empty on a task that names no handler"),
    ({"payload": "x" * (limits.PAYLOAD_BYTES_MAX + 1)}, "payload", "1048577 bytes; the limit is 1048576"),
    ({"payload": "ü" * (limits.PAYLOAD_BYTES_MAX // 2 + 1)}, "payload", "1048578 bytes; the limit is 1048576"),
    ({"data": b"x" * (limits.PAYLOAD_BYTES_MAX + 1)}, "data", "1048577 bytes; the limit is 1048576"),
    ({"payload": "x", "data": b"x"}, "data", "payload are both set"),
    ({"priority": 4}, "priority", "unknown value 4; use 1 (LOW), 2 (MEDIUM) or 3 (HIGH)"),
    ({"priority": -1}, "priority", "unknown value -1"),
    ({"handler": "h\x07"}, "handler", "up to 128 bytes, printable"),
    ({"handler": "h" * 129}, "handler", "up to 128 bytes, printable"),
    ({"queue": "q\t"}, "queue", "up to 128 bytes, printable"),
    ({"queue": "q" * 129}, "queue", "up to 128 bytes, printable"),
    ({"labels": MANY}, "labels", "65 entries; the limit is 64"),
    ({"labels": {"": "x"}}, "labels", "1 to 63 bytes"),
    ({"labels": {"k" * 64: "x"}}, "labels", "1 to 63 bytes"),
    ({"labels": {"k": "v" * 254}}, "labels['k']", "253 bytes"),
    ({"labels": {"k": "\x1b"}}, "labels['k']", "unprintable"),
    ({"selector": MANY}, "selector", "65 entries; the limit is 64"),
    ({"selector": {"k": "v" * 254}}, "selector['k']", "253 bytes"),
    ({"selector": {RANGE_KEY: ">=1"}}, "selector", "1 to 63 bytes, printable"),
    ({"on_lost": 3}, "on_lost", "has the unknown value 3; use 1 (AGAIN) or 2 (FAIL)"),
    ({"plugin_version": "1.2"}, "plugin_version", "a range as in '>=1.2,<2'"),
    ({"plugin_version": ">=1,\n<2"}, "plugin_version", "no range of versions"),
    ({"plugin_version": ">=1" * 50}, "plugin_version", "150 bytes; the limit is 128"),
    ({"unique_key": "k" * 257}, "unique_key", "up to 256 bytes, printable"),
    ({"unique_key": "a\nb"}, "unique_key", "up to 256 bytes, printable"),
    ({"unique_for_ms": 1}, "unique_for_ms", "is set without a unique_key"),
    ({"unique_key": "k", "unique_for_ms": -1}, "unique_for_ms", "is -1; 0 to 316224000000 milliseconds (10 years)"),
    ({"run_at_ms": -1}, "run_at_ms", "is -1; 0 to 253370764800000 milliseconds (the year 9999)"),
    ({"run_at_ms": limits.TIME_MS_MAX + 1}, "run_at_ms", "0 to 253370764800000 milliseconds (the year 9999)"),
    ({"run_at_ms": 2**63 - 1}, "run_at_ms", "0 to 253370764800000 milliseconds"),
    ({"expires_at_ms": -1}, "expires_at_ms", "is -1; 0 to 253370764800000 milliseconds"),
    ({"expires_at_ms": limits.TIME_MS_MAX + 1}, "expires_at_ms", "0 to 253370764800000 milliseconds"),
    ({"time_limit_ms": -1}, "time_limit_ms", "is -1; 0 to 316224000000 milliseconds (10 years)"),
    ({"time_limit_ms": limits.DURATION_MS_MAX + 1}, "time_limit_ms", "0 to 316224000000 milliseconds (10 years)"),
    ({"delay_ms": -1}, "delay_ms", "is -1; 0 to 316224000000 milliseconds"),
    ({"delay_ms": 2**63 - 1}, "delay_ms", "0 to 316224000000 milliseconds (10 years)"),
    ({"delay_ms": 1, "run_at_ms": 1}, "delay_ms", "and run_at_ms are both set"),
    ({"expires_in_ms": -1}, "expires_in_ms", "is -1; 0 to 316224000000 milliseconds"),
    ({"expires_in_ms": limits.DURATION_MS_MAX + 1}, "expires_in_ms", "0 to 316224000000 milliseconds (10 years)"),
    ({"expires_in_ms": 1, "expires_at_ms": 1}, "expires_in_ms", "and expires_at_ms are both set"),
    ({"retry": pb.RetryPolicy(max_attempts=1001)}, "retry.max_attempts", "1001; 0 to 1000"),
    ({"retry": pb.RetryPolicy(max_attempts=-1)}, "retry.max_attempts", "-1; 0 to 1000"),
    ({"retry": pb.RetryPolicy(initial_delay_ms=-1)}, "retry.initial_delay_ms", "-1; 0 to"),
    ({"retry": pb.RetryPolicy(max_delay_ms=8 * 24 * 3600 * 1000)}, "retry.max_delay_ms", "is needed"),
    ({"retry": pb.RetryPolicy(factor=0.5)}, "retry.factor", "0.5; 1 to 100"),
    ({"retry": pb.RetryPolicy(factor=float("nan"))}, "retry.factor", "nan; 1 to 100"),
    ({"retry": pb.RetryPolicy(jitter=1.5)}, "retry.jitter", "1.5; 0 to 1"),
    ({"retry": pb.RetryPolicy(no_retry=["E"] * 65)}, "retry.no_retry", "65 names; the limit is 64"),
    ({"retry": pb.RetryPolicy(no_retry=["\n"])}, "retry.no_retry[0]", "printable"),
    ({"traceparent": "00-0af7651916cd43dd"}, "traceparent", "the form of the W3C is needed"),
    ({"traceparent": "00-" + "0" * 32 + "-b7ad6b7169203331-01"}, "traceparent", "the form of the W3C is needed"),
    ({"tracestate": "a=1"}, "traceparent", "empty beside a tracestate"),
    ({"traceparent": TRACEPARENT, "tracestate": "a=" + "1" * 511}, "tracestate", "513 bytes"),
    ({"traceparent": TRACEPARENT, "tracestate": "a=ü"}, "tracestate", "the limit is 512"),
]
NAMES = [f"{field}-{number}" for number, (_, field, _) in enumerate(BAD_TASKS)]


def task(**fields: Any) -> pb.Task:
    named: dict[str, Any] = {"id": "t", "handler": "h"}
    return pb.Task(**named | fields)


@pytest.mark.parametrize(("fields", "field", "words"), BAD_TASKS, ids=NAMES)
async def test_a_bad_task_is_refused_with_its_field_and_limit(
    leader: ServedLeader, fields: dict[str, Any], field: str, words: str
) -> None:
    bad = task(**fields)
    alone = await refused(leader.scheduler.ScheduleTask(pb.ScheduleTaskRequest(task=bad), timeout=PATIENCE))
    assert (alone.code, alone.reason) == (INVALID, "INVALID_ARGUMENT")
    assert [violation.field for violation in alone.violations] == [f"task.{field}"]
    assert words in alone.violations[0].description
    assert alone.message.startswith(f"task.{field}: ")

    batch = pb.ScheduleTasksRequest(tasks=[task(id="neighbour"), bad])
    among = await refused(leader.scheduler.ScheduleTasks(batch, timeout=PATIENCE))
    assert among.code is INVALID
    assert [violation.field for violation in among.violations] == [f"tasks[1].{field}"]
    assert words in among.violations[0].description
    assert await leader.list() == []


async def test_a_missing_task_is_refused(leader: ServedLeader) -> None:
    refusal = await refused(leader.scheduler.ScheduleTask(pb.ScheduleTaskRequest(), timeout=PATIENCE))
    assert refusal.code is INVALID
    assert [violation.field for violation in refusal.violations] == ["task"]


async def test_the_largest_of_everything_is_taken_and_comes_back_as_it_was(leader: ServedLeader) -> None:
    labels = {f"{n:063}": "v" * 253 for n in range(64)}
    largest = task(
        id="\N{GRINNING FACE}" * 64,
        payload="x" * limits.PAYLOAD_BYTES_MAX,
        handler="h" * 128,
        queue="q" * 128,
        priority=pb.TASK_PRIORITY_HIGH,
        labels=labels,
        selector=labels,
        run_at_ms=limits.TIME_MS_MAX,
        time_limit_ms=limits.DURATION_MS_MAX,
        expires_at_ms=limits.TIME_MS_MAX,
        plugin_version=",".join([">=1.2"] * 21),
        unique_key="\N{GRINNING FACE}" * 64,
        unique_for_ms=limits.DURATION_MS_MAX,
        on_lost=pb.ON_LOST_FAIL,
        retry=pb.RetryPolicy(
            max_attempts=1000,
            initial_delay_ms=limits.RETRY_DELAY_MS_MAX,
            factor=100,
            max_delay_ms=limits.RETRY_DELAY_MS_MAX,
            jitter=1,
            no_retry=["E" * 128] * 64,
        ),
    )
    await leader.scheduler.ScheduleTask(pb.ScheduleTaskRequest(task=largest), timeout=PATIENCE)
    kept = await leader.get(largest.id)
    for field, value in largest.ListFields():
        assert getattr(kept, field.name) == value


async def test_output_only_fields_are_ignored_on_input(leader: ServedLeader) -> None:
    told = task(status=pb.TASK_STATUS_COMPLETED, result="1", worker="w", fence=7, attempts=[pb.Attempt(number=1)])
    await leader.scheduler.ScheduleTask(pb.ScheduleTaskRequest(task=told), timeout=PATIENCE)
    kept = await leader.get("t")
    assert (kept.status, kept.result, kept.worker, kept.fence) == (pb.TASK_STATUS_PENDING, "", "", 0)
    assert not kept.attempts
    # They are no part of what makes a task the same.
    assert (await leader.submit("t")).existing == 1


async def test_a_batch_with_too_many_tasks_is_refused(leader: ServedLeader) -> None:
    tasks = [task(id=str(n)) for n in range(limits.BATCH_TASKS_MAX + 1)]
    refusal = await refused(leader.scheduler.ScheduleTasks(pb.ScheduleTasksRequest(tasks=tasks), timeout=PATIENCE))
    assert refusal.code is INVALID
    assert [(v.field, v.description) for v in refusal.violations] == [
        ("tasks", "has 10001 tasks; the limit is 10000 in one call")
    ]
    assert await leader.list() == []


async def test_a_batch_with_too_many_bytes_is_refused(leader: ServedLeader) -> None:
    tasks = [task(id=str(n), payload="x" * limits.PAYLOAD_BYTES_MAX) for n in range(4)]
    request = pb.ScheduleTasksRequest(tasks=tasks)
    refusal = await refused(leader.scheduler.ScheduleTasks(request, timeout=PATIENCE))
    assert refusal.code is INVALID
    assert [(v.field, v.description) for v in refusal.violations] == [
        ("tasks", f"has {request.ByteSize()} bytes; the limit is {limits.BATCH_BYTES_MAX} in one call")
    ]
    assert await leader.list() == []


async def test_an_empty_batch_is_refused(leader: ServedLeader) -> None:
    refusal = await refused(leader.scheduler.ScheduleTasks(pb.ScheduleTasksRequest(), timeout=PATIENCE))
    assert refusal.code is INVALID
    assert [violation.field for violation in refusal.violations] == ["tasks"]


async def test_a_message_over_the_limit_of_messages_is_refused_and_the_connection_goes_on(leader: ServedLeader) -> None:
    request = pb.ScheduleTaskRequest(task=task(data=b"x" * (limits.MESSAGE_BYTES_MAX + 1)))
    channel = grpc.aio.insecure_channel(leader.addresses.scheduler, options=[("grpc.max_send_message_length", -1)])
    async with channel:
        call = channel.unary_unary(
            "/scheduler.v1.SchedulerService/ScheduleTask",
            request_serializer=pb.ScheduleTaskRequest.SerializeToString,
            response_deserializer=pb.ScheduleTaskResponse.FromString,
        )
        refusal = await refused(call(request, timeout=PATIENCE))
        assert refusal.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert str(limits.MESSAGE_BYTES_MAX) in refusal.message
        await call(pb.ScheduleTaskRequest(task=task()), timeout=PATIENCE)


async def test_an_error_names_at_most_twenty_tasks(leader: ServedLeader) -> None:
    # Trailers are bounded by gRPC: more would lose all of them.
    tasks = [task(id="x" * 300, labels={"k": "\n"}, queue="q" * 200) for n in range(1000)]
    refusal = await refused(leader.scheduler.ScheduleTasks(pb.ScheduleTasksRequest(tasks=tasks), timeout=PATIENCE))
    assert refusal.code is INVALID
    assert len(refusal.violations) == 20
    assert refusal.violations[0].field == "tasks[0].id"


async def test_errors_carry_google_rpc_status_details(leader: ServedLeader) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await leader.submit("ok", "")
    trailers = dict(tuple(caught.value.trailing_metadata() or ()))
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(bad_request)
    assert (status.code, status.message) == (3, caught.value.details())
    assert (info.domain, info.reason) == ("gowork", "INVALID_ARGUMENT")
    assert bad_request.field_violations[0].field == "tasks[1].id"
