"""What is scheduled of a file with a line at fault, and what is said of it."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

import click
import pytest

from gowork.cli.lines import Lines
from gowork.client import (
    AlreadyExists,
    Client,
    FieldViolation,
    InvalidArgument,
    LeaderUnreachable,
    NewTask,
    TaskHandle,
    TaskOptions,
)


class FakeClient:
    """Takes tasks in batches of three, and acknowledges two batches later, as a leader that is slow."""

    def __init__(self, *, refused: Iterable[str] = (), unsendable: str = "", calls_max: int = 99) -> None:
        self.scheduled: list[str] = []
        self._refused, self._unsendable, self._calls_max = set(refused), unsendable, calls_max

    def schedule_many(self, tasks: Iterable[NewTask], **options: Any) -> Iterator[TaskHandle]:
        flying: list[list[str]] = []
        first = 0
        for task in tasks:
            if task.payload == self._unsendable:
                raise InvalidArgument.of("payload", "can't be sent")
            if not flying or len(flying[-1]) == 3:
                flying.append([])
            flying[-1].append(str(task.id))
            while len(flying) > 2:
                yield from self._land(flying.pop(0), first)
                first += 3
        for batch in flying:
            yield from self._land(batch, first)
            first += 3

    def _land(self, ids: list[str], first: int) -> Iterator[TaskHandle]:
        self._calls_max -= 1
        if self._calls_max < 0:
            raise LeaderUnreachable("no leader answers")
        for place, id in enumerate(ids, first):
            if id in self._refused:
                field = f"tasks[{place}].id"
                raise AlreadyExists(f"{field}: is taken", violations=(FieldViolation(field, "is taken"),))
        self.scheduled += [id for id in ids if id not in self.scheduled]
        yield from (TaskHandle(Client(), id) for id in ids)


def schedule(client: FakeClient, *lines: object) -> tuple[list[str], Lines]:
    text = "".join(line if isinstance(line, str) else json.dumps(line) + "\n" for line in lines)
    read = Lines(io.BytesIO(text.encode()), lambda: None)
    return [handle.id for handle in read.scheduled(client, {})], read  # type: ignore[arg-type]


def test_each_payload_is_checked_by_its_own_handler_and_all_before_a_wrong_one_is_scheduled(
    capsys: pytest.CaptureFixture[str],
) -> None:
    checked: list[tuple[object, str, str]] = []

    def check(payload: object, handler: str, wanted: str) -> None:
        checked.append((payload, handler, wanted))
        if payload == "wrong":
            raise click.ClickException("the handler 'double' does not take this: payload: 'wrong'")

    client = FakeClient()
    own = {"payload": "x", "id": "t6", "handler": "shout", "plugin_version": ">=2"}
    lines = [*tasks(5), own, {"payload": "wrong", "plugin_version": ""}, {"payload": "y"}]
    read = Lines(io.BytesIO("\n".join(map(json.dumps, lines)).encode()), lambda: None, check)
    options = TaskOptions(handler="double", plugin_version="<2")
    assert [handle.id for handle in read.scheduled(client, options)] == names(6)  # type: ignore[arg-type]
    of_all = [(str(number), "double", "<2") for number in range(1, 6)]
    assert checked == [*of_all, ("x", "shout", ">=2"), ("wrong", "double", "")]
    words = told(read, capsys)
    assert "tail -n +7 FILE | gowork add --handler double --file -" in words
    assert "6 tasks are scheduled, all of the lines before line 7" in words
    assert "line 7: the handler 'double' does not take this: payload: 'wrong'" in words


def test_tasks_without_a_handler_are_not_checked() -> None:
    checked: list[object] = []
    read = Lines(io.BytesIO(b'{"payload": 1}'), lambda: None, lambda *arguments: checked.append(arguments))
    assert len(list(read.scheduled(FakeClient(), {}))) == 1  # type: ignore[arg-type]
    assert checked == []


def tasks(count: int) -> list[dict[str, Any]]:
    return [{"payload": str(number), "id": f"t{number}"} for number in range(1, count + 1)]


def names(count: int) -> list[str]:
    return [f"t{number}" for number in range(1, count + 1)]


def told(lines: Lines, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises((click.ClickException, LeaderUnreachable)) as raised:
        lines.raise_fault()
    return capsys.readouterr().err + raised.value.args[0]


@pytest.mark.parametrize(
    "line",
    [
        "{\n",
        "[" * 100_000 + "\n",
        {"payload": 1, "handlr": "x"},
        {"payload": 1, "in": "soon"},
        {"payload": 1, "id": 7},
        {"payload": 1, "labels": {"a": 1}},
        {"payload": 1, "labels": ["a"]},
        {"payload": 1, "max_attempts": True},
    ],
)
def test_all_before_a_line_at_fault_is_scheduled_and_nothing_behind(
    line: object, capsys: pytest.CaptureFixture[str]
) -> None:
    client = FakeClient()
    ids, lines = schedule(client, *tasks(10), "\n", line, *tasks(20)[10:])
    assert ids == client.scheduled == names(10)
    words = told(lines, capsys)
    assert "10 tasks are scheduled, all of the lines before line 12" in words
    assert "tail -n +12 FILE | gowork add --file -" in words
    assert "line 12: " in words


@pytest.mark.parametrize(
    ("field", "words"),
    [("handlr", "unknown handlr; did you mean 'handler'?"), ("zzz", "unknown zzz; known are after, after_rule, at, ")],
)
def test_an_unknown_field_names_the_nearest(field: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    _, lines = schedule(FakeClient(), {"payload": 1, field: "x"})
    assert words in told(lines, capsys)


def test_all_before_a_task_that_can_not_be_sent_is_scheduled(capsys: pytest.CaptureFixture[str]) -> None:
    client = FakeClient(unsendable="8")
    ids, lines = schedule(client, *tasks(20))
    assert ids == client.scheduled == names(7)
    assert "line 8: payload: can't be sent" in told(lines, capsys)


def test_all_before_a_task_that_the_leader_refuses_is_scheduled(capsys: pytest.CaptureFixture[str]) -> None:
    client = FakeClient(refused=["t5", "t9"])
    ids, lines = schedule(client, *tasks(20))
    assert ids == names(4)
    assert set(names(4)) <= set(client.scheduled)
    assert "line 5: the task.id: is taken" in told(lines, capsys)
    # The line is right, so this is no wrong usage.
    assert getattr(lines.fault, "exit_code", None) == 1


def test_what_may_be_scheduled_is_told_when_the_leader_goes(capsys: pytest.CaptureFixture[str]) -> None:
    ids, lines = schedule(FakeClient(calls_max=1), *tasks(20))
    assert ids == names(3)
    words = told(lines, capsys)
    assert "3 tasks are scheduled, all of the lines before line 4" in words
    assert "Those of the lines 4 to 10, from t4 to t10, may be" in words


def test_a_file_without_fault_has_nothing_to_tell() -> None:
    ids, lines = schedule(FakeClient(), *tasks(20))
    lines.raise_fault()
    assert ids == names(20)


def test_a_task_without_an_id_gets_one_before_it_is_sent() -> None:
    client = FakeClient(refused=[])
    ids, _ = schedule(client, {"payload": "a"}, {"payload": "b"})
    assert ids == client.scheduled
    assert len(set(ids)) == 2


def test_an_interrupt_tells_what_is_scheduled_and_what_may_be(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(io.BytesIO("".join(json.dumps(task) + "\n" for task in tasks(20)).encode()), lambda: None)
    handles = lines.scheduled(FakeClient(), {})  # type: ignore[arg-type]
    next(handles)
    lines.fault = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        lines.raise_fault()
    words = capsys.readouterr().err
    assert "1 task is scheduled, all of the lines before line 2; standard output has their ids" in words
    assert "Those of the lines 2 to 7, from t2 to t7, may be" in words
