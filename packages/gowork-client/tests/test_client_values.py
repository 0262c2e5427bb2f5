"""Ids, payloads, the mapping to and from the wire, filters and batches: values in, values out."""

from __future__ import annotations

import dataclasses
import itertools
import math
import threading
import uuid
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import grpc
import msgspec
import pytest

from gowork.client import (
    AttemptOutcome,
    CallError,
    FieldViolation,
    InvalidArgument,
    NewTask,
    Priority,
    ResultError,
    RetryPolicy,
    TaskFailed,
    TaskOptions,
    TaskStatus,
    TaskView,
    WaitCode,
    _batches,
    completed,
)
from gowork.client import errors as errors_module
from gowork.client._batches import Batch, Filling
from gowork.client._filters import filter_expression
from gowork.client._ids import TaskIds
from gowork.client._payloads import decode_result, encode_payload
from gowork.client._requests import TaskEncoder, duration_ms, view_to_wire
from gowork.client._responses import activity, explanation, member, task_info
from gowork.proto import limits
from gowork.proto.cluster.v1 import leader_pb2 as cluster
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb


@dataclasses.dataclass
class Job:
    name: str
    size: int = 1


class Reply(msgspec.Struct):
    text: str


class Model:
    """Has the methods by which pydantic's models are known."""

    def __init__(self, name: str) -> None:
        self.name = name

    def model_dump_json(self) -> str:
        return f'{{"name":"{self.name}"}}'

    def model_dump(self, mode: str) -> dict[str, str]:
        assert mode == "json"
        return {"name": self.name}

    @classmethod
    def model_validate_json(cls, text: str) -> Model:
        return cls(msgspec.json.decode(text)["name"])


class TestIds:
    def test_an_id_is_a_uuid_of_version_7_of_its_millisecond(self) -> None:
        made = uuid.UUID(TaskIds(lambda: 1_700_000_000_123_999_999).new())
        assert made.version == 7
        assert made.variant == uuid.RFC_4122
        assert made.int >> 80 == 1_700_000_000_123

    def test_ids_grow_even_when_the_clock_goes_back(self) -> None:
        clock = iter([5_000_000_000, 5_000_000_000, 4_000_000_000, 5_001_000_000, 1])
        ids = TaskIds(lambda: next(clock))
        made = [ids.new() for _ in range(5)]
        assert made == sorted(set(made))

    def test_ids_grow_past_the_end_of_the_counter(self) -> None:
        ids = TaskIds(lambda: 5_000_000_000)
        first = ids.new()
        ids._counter = (1 << 42) - 1
        second = ids.new()
        assert first < second
        assert uuid.UUID(second).int >> 80 == 5_001

    def test_threads_never_get_the_same_id(self) -> None:
        ids = TaskIds(lambda: 5_000_000_000)
        made: list[str] = []
        threads = [threading.Thread(target=lambda: made.extend([ids.new() for _ in range(2_000)])) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(set(made)) == 8_000


class TestPayloads:
    @pytest.mark.parametrize(
        ("payload", "text", "data"),
        [
            ("as it is", "as it is", b""),
            ("", "", b""),
            (b"\x00\xff", "", b"\x00\xff"),
            (bytearray(b"ab"), "", b"ab"),
            (memoryview(b"ab"), "", b"ab"),
            (None, "null", b""),
            ({"a": [1, 2.5, True]}, '{"a":[1,2.5,true]}', b""),
            (Job("x"), '{"name":"x","size":1}', b""),
            (Reply("x"), '{"text":"x"}', b""),
            (Model("x"), '{"name":"x"}', b""),
            ([Model("x")], '[{"name":"x"}]', b""),
            (Priority.HIGH, "HIGH", b""),
        ],
    )
    def test_text_and_bytes_go_as_they_are_and_the_rest_as_json(self, payload: object, text: str, data: bytes) -> None:
        assert encode_payload(payload) == (text, data, 0)

    @pytest.mark.parametrize("payload", [object(), {"a": object()}, {1j: 2}, float])
    def test_what_has_no_json_form_is_refused_with_its_type(self, payload: object) -> None:
        with pytest.raises(InvalidArgument, match=r"payload: .* cannot be written as JSON: .* - at `\$") as raised:
            encode_payload(payload)
        assert raised.value.violations[0].field == "payload"

    @pytest.mark.parametrize(
        "payload", ["x" * (limits.PAYLOAD_BYTES_MAX + 1), "é" * (limits.PAYLOAD_BYTES_MAX // 2 + 1), b"x" * (1 << 21)]
    )
    def test_a_payload_over_the_limit_is_refused_with_the_limit(self, payload: str | bytes) -> None:
        with pytest.raises(InvalidArgument, match="at most 1,048,576"):
            encode_payload(payload)

    @pytest.mark.parametrize("payload", ["x" * limits.PAYLOAD_BYTES_MAX, "é" * (limits.PAYLOAD_BYTES_MAX // 2)])
    def test_a_payload_at_the_limit_is_taken(self, payload: str) -> None:
        assert encode_payload(payload) == (payload, b"", 0)

    @pytest.mark.parametrize(
        ("text", "data", "type", "value"),
        [
            ("", b"", None, None),
            ('{"a":1}', b"", None, {"a": 1}),
            ("", b"\x00", None, b"\x00"),
            ("", b"\x00", bytes, b"\x00"),
            ("", b"", bytes, b""),
            ('{"name":"x"}', b"", Job, Job("x")),
            ('{"text":"x"}', b"", Reply, Reply("x")),
            ("[1]", b"", list[int], [1]),
            ("", b"", type(None), None),
        ],
    )
    def test_a_result_is_decoded_to_the_type(self, text: str, data: bytes, type: Any, value: object) -> None:
        assert decode_result(text, data, type) == value

    def test_a_result_is_decoded_to_a_model_by_its_own_method(self) -> None:
        assert decode_result('{"name":"x"}', b"", Model).name == "x"

    @pytest.mark.parametrize(
        ("text", "data", "type"),
        [("not json", b"", None), ('{"name":1}', b"", Job), ("", b"\x00", Job), ("", b"", Job)],
    )
    def test_a_result_that_does_not_fit_is_an_error_of_its_own(self, text: str, data: bytes, type: Any) -> None:
        with pytest.raises(ResultError):
            decode_result(text, data, type)


class TestTaskEncoder:
    NOW = datetime(2026, 1, 1, tzinfo=UTC)

    def encode(self, payload: object = "p", **options: Any) -> pb.Task:
        return TaskEncoder(cast(TaskOptions, options), now=lambda: self.NOW).task(payload, "i")

    def test_no_options_set_no_fields(self) -> None:
        assert self.encode() == pb.Task(id="i", payload="p")

    def test_options_set_their_fields(self) -> None:
        task = self.encode(
            handler="h",
            priority="high",
            queue="q",
            labels={"a": "b"},
            selector={"c": "d"},
            delay=timedelta(minutes=1),
            time_limit=0.25,
            expires_at=self.NOW,
            retry=RetryPolicy(
                3, initial_delay=0.5, factor=3, max_delay=timedelta(hours=1), jitter=0.1, no_retry=("E",)
            ),
        )
        now_ms = int(self.NOW.timestamp()) * 1000
        assert task == pb.Task(
            id="i",
            payload="p",
            handler="h",
            priority=pb.TASK_PRIORITY_HIGH,
            queue="q",
            labels={"a": "b"},
            selector={"c": "d"},
            delay_ms=60_000,
            time_limit_ms=250,
            expires_at_ms=now_ms,
            retry=pb.RetryPolicy(
                max_attempts=3, initial_delay_ms=500, factor=3, max_delay_ms=3_600_000, jitter=0.1, no_retry=["E"]
            ),
        )

    def test_a_number_of_attempts_is_a_policy(self) -> None:
        assert self.encode(retry=5).retry == pb.RetryPolicy(max_attempts=5)

    def test_a_decorated_function_stands_for_its_name(self) -> None:
        def resize() -> None: ...

        resize.__gowork_handler__ = SimpleNamespace(name="images.resize")  # type: ignore[attr-defined]
        assert self.encode(handler=resize).handler == "images.resize"

    def test_a_plain_function_is_refused_as_handler(self) -> None:
        with pytest.raises(InvalidArgument, match="decorated with @handler"):
            self.encode(handler=print)

    def test_the_options_of_a_new_task_come_before_those_of_the_call(self) -> None:
        encoder = TaskEncoder({"handler": "a", "queue": "q"})
        assert encoder.task(NewTask(b"d", id="i", handler="b")) == pb.Task(id="i", data=b"d", handler="b", queue="q")

    def test_a_moment_of_a_new_task_takes_the_place_of_the_calls_delay(self) -> None:
        encoder = TaskEncoder({"delay": 5, "expires_in": 6})
        task = encoder.task(NewTask("p", id="i", run_at=7.0, expires_at=8.0))
        assert task == pb.Task(id="i", payload="p", run_at_ms=7000, expires_at_ms=8000)

    @pytest.mark.parametrize(
        "item", ["text", "", "[1]", "ä", None, b"data", b"", {"a": 1}, NewTask("a", priority="low")]
    )
    @pytest.mark.parametrize("options", [{}, {"handler": "h", "labels": {"a": "b"}, "retry": 3}], ids=["plain", "more"])
    def test_an_entry_is_the_same_bytes_as_a_request_of_the_task(self, options: TaskOptions, item: object) -> None:
        encoder = TaskEncoder(options)
        task_id, entry = encoder.entry(item)
        task = encoder.task(item)
        task.id = task_id
        assert entry == pb.ScheduleTasksRequest(tasks=[task]).SerializeToString(deterministic=True)

    # The lengths before a payload and before its task take one byte more from 128 and from 16,384 on.
    @pytest.mark.parametrize("size", [1, 87, 88, 127, 128, 255, 256, 16_342, 16_343, 16_383, 16_384, 1 << 20])
    def test_an_entry_is_the_same_bytes_whatever_its_size(self, size: int) -> None:
        self.test_an_entry_is_the_same_bytes_as_a_request_of_the_task({}, "x" * size)

    @pytest.mark.parametrize(
        ("options", "field"),
        [
            ({"run_at": 1.0, "delay": 1.0}, "run_at"),
            ({"run_at": datetime(2026, 1, 1)}, "run_at"),  # noqa: DTZ001 - that is the point
            ({"run_at": float("nan")}, "run_at"),
            ({"delay": -1}, "delay"),
            ({"time_limit": float("inf")}, "time_limit"),
            ({"expires_at": -1.0}, "expires_at"),
            ({"priority": "urgent"}, "priority"),
            ({"priority": "UNSPECIFIED"}, "priority"),
            ({"retry": RetryPolicy(2, initial_delay=-1)}, "retry.initial_delay"),
        ],
    )
    def test_an_option_that_means_nothing_is_refused_by_name(self, options: dict[str, Any], field: str) -> None:
        with pytest.raises(InvalidArgument) as raised:
            self.encode(**options)
        assert [violation.field for violation in raised.value.violations] == [field]

    @pytest.mark.parametrize(("duration", "ms"), [(0, 0), (0.0001, 1), (1.1, 1100), (timedelta(seconds=2), 2000)])
    def test_durations_become_milliseconds_and_only_zero_becomes_zero(self, duration: float, ms: int) -> None:
        assert duration_ms(duration, "x") == ms


class TestViews:
    def test_a_task_keeps_all_that_the_leader_told(self) -> None:
        info = task_info(
            pb.Task(
                id="i",
                payload="p",
                priority=pb.TASK_PRIORITY_HIGH,
                status=pb.TASK_STATUS_ERROR,
                handler="h",
                queue="q",
                labels={"a": "b"},
                time_limit_ms=1500,
                retry=pb.RetryPolicy(max_attempts=2),
                attempts=[
                    pb.Attempt(
                        number=1,
                        worker="w",
                        started_at_ms=1000,
                        outcome=pb.ATTEMPT_OUTCOME_LOST,
                        fence=7,
                        plugin="images",
                        plugin_version="1.2",
                    )
                ],
                fence=7,
                failure=pb.Failure(kind=pb.FAILURE_KIND_TIMEOUT, message="m", type="T", traceback="tb"),
                progress=pb.Progress(fraction=0.5, message="half", updated_at_ms=2000),
                created_at_ms=1000,
                waiting_reason="no worker",
            )
        )
        assert info.status is TaskStatus.ERROR
        assert info.status.finished
        assert info.priority is Priority.HIGH
        assert info.time_limit == 1.5
        assert info.retry == RetryPolicy(max_attempts=2)
        assert info.created_at == datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC)
        assert info.started_at is None
        assert info.attempts[0].outcome is AttemptOutcome.LOST
        assert (info.attempts[0].plugin, info.attempts[0].plugin_version) == ("images", "1.2")
        assert info.failure is not None
        assert (info.failure.kind, info.failure.traceback) == ("TIMEOUT", "tb")
        assert info.progress is not None
        assert info.progress.fraction == 0.5
        assert info.waiting_reason == "no worker"

    def test_every_field_of_the_wire_is_mapped(self) -> None:
        on_the_wire = {field.name.removesuffix("_ms") for field in pb.Task.DESCRIPTOR.fields} - {"payload_form"}
        # The leader tells the moments that follow from them.
        on_the_wire -= {"delay", "expires_in"}
        info = task_info(pb.Task())
        assert on_the_wire <= {field.name for field in dataclasses.fields(info)}
        assert {field.name.removesuffix("_ms") for field in cluster.Member.DESCRIPTOR.fields} == {
            field.name for field in dataclasses.fields(member(cluster.Member()))
        }

    def test_enums_know_every_word_of_the_wire(self) -> None:
        for status in pb.TaskStatus.values():
            assert f"TASK_STATUS_{task_info(pb.Task(status=status)).status}" == pb.TaskStatus.Name(status)
        for outcome in pb.AttemptOutcome.values():
            (attempt,) = task_info(pb.Task(attempts=[pb.Attempt(outcome=outcome)])).attempts
            assert f"ATTEMPT_OUTCOME_{attempt.outcome}" == pb.AttemptOutcome.Name(outcome)
        for kind in pb.FailureKind.values():
            failure = task_info(pb.Task(failure=pb.Failure(kind=kind))).failure
            assert failure is not None
            assert f"FAILURE_KIND_{failure.kind}" == pb.FailureKind.Name(kind)
        for on_lost in pb.OnLost.values():
            assert f"ON_LOST_{task_info(pb.Task(on_lost=on_lost)).on_lost}" == pb.OnLost.Name(on_lost)
        for rule in pb.AfterRule.values():
            assert f"AFTER_RULE_{task_info(pb.Task(after_rule=rule)).after_rule}" == pb.AfterRule.Name(rule)
        assert [view_to_wire(view) for view in TaskView] == [1, 2, 3]

        for code in pb.WaitCode.values():
            told = pb.ExplainTaskResponse(reasons=[pb.WaitReason(code=code)])
            (reason,) = explanation(told).reasons
            assert f"WAIT_CODE_{reason.code}" == pb.WaitCode.Name(code)

    def test_reasons_of_a_newer_leader_are_not_taken_for_none(self) -> None:
        newer: Any = 98, 99
        told = pb.ExplainTaskResponse(
            reasons=[pb.WaitReason(code=code, message="its planet is away") for code in newer],
            workers=[pb.WorkerVerdict(worker="w", code=newer[0])],
        )
        assert [(reason.code, reason.message) for reason in explanation(told).reasons] == [
            (WaitCode.OTHER, "its planet is away")
        ] * 2
        assert [verdict.code for verdict in explanation(told).workers] == [WaitCode.OTHER]
        row = pb.QueueActivity(waiting=[pb.WaitingTasks(code=code, tasks=3) for code in (0, *newer)])
        (queue,) = activity(pb.ActivityResponse(queues=[row])).queues
        assert queue.waiting == {WaitCode.UNSPECIFIED: 3, WaitCode.OTHER: 6}

    def test_a_word_from_a_newer_leader_reads_as_unspecified(self) -> None:
        assert task_info(pb.Task(status=99)).status is TaskStatus.UNSPECIFIED  # type: ignore[arg-type]

    def test_a_task_that_did_not_complete_raises_its_failure(self) -> None:
        info = task_info(
            pb.Task(
                id="i",
                status=pb.TASK_STATUS_ERROR,
                failure=pb.Failure(kind=pb.FAILURE_KIND_TIMEOUT, message="took 3 s", type="T"),
            )
        )
        with pytest.raises(TaskFailed, match=r"task i failed \(TIMEOUT\): T: took 3 s") as raised:
            completed(info)
        assert raised.value.failure == info.failure


class TestFilters:
    def test_terms_are_joined_and_quoted(self) -> None:
        expression = filter_expression(
            'queue != "x"',
            {"status": "running", "handler": 'a"b', "labels": {"team": "we\\b"}, "id_prefix": "job-", "priority": None},
        )
        assert expression == (
            r'queue != "x" AND status = RUNNING AND handler = "a\"b" AND labels.team = "we\\b" AND id = "job-*"'
        )

    def test_keys_of_labels_are_quoted_where_they_need_it(self) -> None:
        assert filter_expression("", {"labels": {"a b = c": "d"}}) == 'labels."a b = c" = "d"'
        with pytest.raises(InvalidArgument, match="no filter can name the key"):
            filter_expression("", {"labels": {'a" = "b': "c"}})

    def test_no_terms_make_an_empty_filter(self) -> None:
        assert filter_expression("", {}) == ""


def batches(entries: Iterable[tuple[str, bytes]]) -> Iterator[Batch]:
    filling = Filling()
    for id, entry in entries:
        if (batch := filling.add(id, entry)) is not None:
            yield batch
    if (batch := filling.take()) is not None:
        yield batch


class TestBatches:
    def test_a_batch_ends_at_ten_thousand_tasks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_batches, "BATCH_AGE_S", math.inf)
        sizes = [(batch.first, len(batch.ids)) for batch in batches((str(n), b"x") for n in range(20_001))]
        assert sizes == [(0, 10_000), (10_000, 10_000), (20_000, 1)]

    def test_a_batch_ends_at_four_mebibytes_less_room_for_a_trace_context(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_batches, "BATCH_AGE_S", math.inf)
        context = pb.ScheduleTasksRequest(traceparent="x" * 100, tracestate="x" * 512).ByteSize()
        fitting = (limits.BATCH_BYTES_MAX - context) // 4
        for size, numbers in ((fitting, [4, 4, 1]), (fitting + 1, [3, 3, 3])):
            made = list(batches((str(n), b"x" * size) for n in range(9)))
            assert [len(batch.ids) for batch in made] == numbers

    def test_an_old_batch_is_not_kept_until_it_is_full(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Each look at the clock finds it a second later.
        monkeypatch.setattr(_batches, "BATCH_AGE_S", 3)
        monkeypatch.setattr(_batches, "time", SimpleNamespace(monotonic=itertools.count().__next__))
        assert [len(batch.ids) for batch in batches((str(n), b"x") for n in range(7))] == [3, 3, 1]

    def test_requests_merge_into_one_that_holds_all(self) -> None:
        encoder = TaskEncoder({"handler": "h"})
        (batch,) = batches(map(encoder.entry, ["a", "b"]))
        request = pb.ScheduleTasksRequest.FromString(batch.request())
        assert [(task.id, task.payload) for task in request.tasks] == list(zip(batch.ids, ["a", "b"], strict=True))

    def test_an_error_names_the_place_among_all_tasks(self) -> None:
        error = CallError("tasks[3].id: is empty", violations=[FieldViolation("tasks[3].id", "is empty")])
        placed = Batch(20_000).placed(error)
        assert str(placed) == "tasks[20003].id: is empty"
        assert placed.violations == (FieldViolation("tasks[20003].id", "is empty"),)


class TestErrors:
    def test_the_docstring_is_the_default_message(self) -> None:
        assert str(errors_module.NotFound()) == "The leader knows nothing by this id."

    def test_the_tree_at_the_top_names_every_error(self) -> None:
        assert errors_module.__doc__ is not None
        for name in errors_module.__all__:
            if issubclass(getattr(errors_module, name), Exception):
                assert name in errors_module.__doc__

    def test_an_error_keeps_what_the_leader_said(self) -> None:
        error = InvalidArgument.of("id", "is empty")
        assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT")
        assert isinstance(error, ValueError)
