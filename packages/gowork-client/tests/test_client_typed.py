"""A task that was scheduled with a decorated function: its result has the function's return type."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

import pytest

from gowork.client import Client, NewTask, ResultError, TaskHandle
from gowork.client._typed import Functions
from gowork.proto.scheduler.v1 import scheduler_pb2 as scheduler

if TYPE_CHECKING:
    from fractions import Fraction


@dataclass
class Done:
    path: str


class Opaque:
    def __init__(self, something: object) -> None: ...


def done(job: str) -> Done:
    return Done(job)


def plain(job: str):
    return job


def anything(job: str) -> Any:
    return job


def absent(job: str) -> Fraction:
    raise NotImplementedError


def opaque(job: str) -> Opaque:
    raise NotImplementedError


def finished(function: Any, result: str) -> TaskHandle[Any]:
    handle = TaskHandle(cast("Client", FakeClient()), "t", function)
    handle.note_finished(scheduler.Task(id="t", status=scheduler.TASK_STATUS_COMPLETED, result=result))
    return handle


class FakeClient:
    class _settings:  # noqa: N801 - the client's own name
        encryption = None


def test_a_result_has_the_type_that_the_function_is_annotated_with() -> None:
    assert finished(done, '{"path":"a"}').result() == Done("a")


def test_a_type_that_is_asked_for_comes_before_the_annotation() -> None:
    handle = finished(done, '{"path":"a"}')
    assert handle.result(Any) == {"path": "a"}
    assert handle.result(dict[str, str]) == {"path": "a"}


def test_a_type_of_an_enclosing_function_is_found() -> None:
    @dataclass
    class Local:
        price: Decimal

    def local(job: str) -> Local:
        return Local(Decimal(job))

    assert finished(local, '{"price":"1.5"}').result() == Local(Decimal("1.5"))


@pytest.mark.parametrize("function", [plain, anything, None])
def test_without_an_annotation_a_result_is_as_it_is_in_json(function: Any) -> None:
    assert finished(function, '{"path":"a"}').result() == {"path": "a"}


@pytest.mark.parametrize(
    ("function", "words"), [(absent, "'Fraction' is not defined"), (opaque, "Opaque cannot be read from JSON")]
)
def test_an_annotation_that_cannot_be_read_is_named(function: Any, words: str) -> None:
    with pytest.raises(ResultError, match=f"{words}.*call result\\(Any\\)"):
        finished(function, "1").result()


def test_a_result_that_does_not_fit_names_the_field() -> None:
    with pytest.raises(ResultError, match=r"Done.*`\$\.path`"):
        finished(done, '{"path":1}').result()


def test_tasks_without_a_handler_of_their_own_have_the_function_of_all() -> None:
    functions = Functions(dict)
    assert list(functions.of(["a", "b"])) == [dict, dict]
    functions.note("c", NewTask(handler=list))
    assert list(functions.of(["b", "c", "d"])) == [dict, list, dict]


def test_nothing_is_kept_of_a_task_that_was_acknowledged() -> None:
    functions = Functions(None)
    functions.note("a", NewTask(handler=dict))
    functions.note("b", NewTask(handler="by name"))
    assert list(functions.of(["a", "b"])) == [dict, None]
    assert functions._others == {}
