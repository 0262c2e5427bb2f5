"""Which reports a runner sends by columns, and that these say the same."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest

from gowork.proto.completions import reports_of
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker._core.new_tasks import FollowUp
from gowork.worker._runner import endings, outcomes
from gowork.worker._runner.columns import ROWS_MIN, ColumnsError, check, join, pack, without
from gowork.worker._runner.completion import Completion


def completed(fence: int, value: object = 1, trace: str = "") -> Completion:
    completion = outcomes.completed(fence, f"t{fence}", value)
    assert isinstance(completion, Completion)
    completion.execution_us = fence * 10
    completion.traceparent = trace
    return completion


def messages(completions: Iterable[Completion]) -> list[session.Report]:
    return [completion.message() for completion in completions]


def test_fewer_completions_than_rows_min_stay_reports() -> None:
    few = [completed(fence) for fence in range(1, ROWS_MIN)]
    assert pack(few) == (messages(few), None)
    lost = endings.lost(ROWS_MIN, "lost", "")
    assert pack([*few, lost]) == ([*messages(few), lost], None)
    _, columns = pack([*few, lost, completed(99)])
    assert columns is not None
    assert len(columns.fences) == ROWS_MIN


@pytest.mark.parametrize("seed", range(20))
def test_columns_say_what_the_reports_said(seed: int) -> None:
    chance = random.Random(seed)
    values: list[object] = chance.sample([None, 1, "x", b"bytes", {"a": 2}], chance.randint(1, 5))
    traces = chance.choice([[""], ["", "00-1-2-01"]])
    reports = [completed(fence, chance.choice(values), chance.choice(traces)) for fence in range(1, 12)]
    others, columns = pack(reports, 1)
    assert (others, columns is not None) == ([], True)
    assert columns is not None
    assert reports_of(check(columns)) == messages(reports)


def test_what_has_no_column_stays_a_report() -> None:
    unusual = [
        outcomes.completed(1, "t1", b""),
        outcomes.completed(2, "t2", 1, [FollowUp("f", "h", "", b"", 0, "", None, {}, {}, 0, 0, 0, 0)]),
        outcomes.failed(3, "t3", ValueError("no")),
        endings.interrupted(4, "t4", "it waited"),
        endings.cancelled(5, "t5", "asked"),
    ]
    plain = [completed(fence) for fence in range(6, 12)]
    others, columns = pack([*plain[:3], *unusual, *plain[3:]], 6)
    assert others == unusual
    assert columns is not None
    assert reports_of(columns) == messages(plain)


def test_an_optional_column_without_a_value_is_left_out() -> None:
    _, columns = pack([completed(fence) for fence in range(1, 6)], 1)
    assert columns is not None
    assert (len(columns.results), len(columns.result_data), len(columns.traceparents)) == (5, 0, 0)
    _, columns = pack([completed(fence, b"x") for fence in range(1, 6)], 1)
    assert columns is not None
    assert (len(columns.results), len(columns.result_data), len(columns.traceparents)) == (0, 5, 0)


@pytest.mark.parametrize("name", ["ids", "fences", "execution_us", "results", "result_data", "traceparents"])
def test_columns_of_other_lengths_are_refused(name: str) -> None:
    columns = session.Completions(ids=["a", "b"], fences=[1, 2], execution_us=[1, 2], results=["", ""])
    columns.result_data.extend([b"", b""])
    columns.traceparents.extend(["", ""])
    check(columns)
    del getattr(columns, name)[0]
    with pytest.raises(ColumnsError):
        check(columns)


def test_columns_are_joined_with_those_that_have_the_same_ones_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gowork.proto.limits.COMPLETIONS_ROWS_MAX", 10)
    texts = [[completed(fence) for fence in range(first, first + 5)] for first in (1, 6, 11)]
    traced = [completed(fence, 1, "00-1-2-01") for fence in range(16, 20)]
    parts = [
        columns for _, columns in (pack(rows, 1) for rows in [*texts[:2], traced, texts[2]]) if columns is not None
    ]
    before = [reports_of(part) for part in parts]
    frame = session.ConnectRequest()
    join(parts, frame.completions)
    assert [reports_of(check(columns)) for columns in frame.completions] == [
        messages(rows) for rows in (texts[0] + texts[1], traced, texts[2])
    ]
    # What is kept to be sent again has not changed.
    assert [reports_of(part) for part in parts] == before


def test_texts_bytes_and_both_are_not_joined_with_each_other() -> None:
    rows = [[completed(1), completed(2)], [completed(3, b"x"), completed(4, b"y")], [completed(5), completed(6, b"z")]]
    frame = session.ConnectRequest()
    join([columns for _, columns in (pack(each, 1) for each in rows) if columns is not None], frame.completions)
    assert [reports_of(check(columns)) for columns in frame.completions] == list(map(messages, rows))


def test_rows_are_left_out_of_all_columns() -> None:
    reports = [completed(fence, f"{fence}", "00-1-2-01") for fence in range(1, 6)]
    _, columns = pack(reports, 1)
    assert columns is not None
    assert reports_of(without(columns, [0, 3])) == messages([reports[1], reports[2], reports[4]])


@pytest.mark.parametrize("value", [None, 1, "é" * 1_000, "\N{SNOWMAN}" * 1_000, b"\xff" * 1_000, {"a": [1, "ü"]}])
@pytest.mark.parametrize("trace", ["", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"])
@pytest.mark.parametrize("id", ["t", "Ж" * 128])
def test_a_completion_takes_hardly_less_than_it_says(value: object, trace: str, id: str) -> None:
    completion = outcomes.completed(1 << 62, id, value)
    assert isinstance(completion, Completion)
    completion.execution_us = 1 << 40
    completion.traceparent = trace
    message = completion.message()
    assert (message.id, message.fence, message.execution_us, message.traceparent) == (id, 1 << 62, 1 << 40, trace)
    assert message.ByteSize() <= completion.ByteSize() <= message.ByteSize() + 50
