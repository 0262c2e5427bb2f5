"""A payload that does not fit here while other workers have the handler in another form."""

from __future__ import annotations

import dataclasses
import datetime
import uuid
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import pydantic
import pytest

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker import handler
from gowork.worker._core.forms import form_of


@dataclasses.dataclass
class Job:
    path: str


@handler
def resize(job: Job) -> str:
    return job.path


@handler
async def resize_async(job: Job) -> str:
    return job.path


class Struct(msgspec.Struct):
    path: str


class Model(pydantic.BaseModel):
    path: str


class Odd:
    """A type that has no schema."""


FITTING, RENAMED, MORE = '{"path": "a"}', '{"url": "a"}', '{"path": "a", "grey": true}'


@pytest.mark.parametrize("name", ["resize", "resize_async"])
@pytest.mark.parametrize(
    ("payload", "in_other_forms", "outcome"),
    [
        (FITTING, True, "COMPLETED"),
        (RENAMED, True, "unfit"),
        (MORE, True, "unfit"),
        (RENAMED, False, "REJECTED"),
        (MORE, False, "COMPLETED"),
    ],
)
async def test_what_does_not_fit_is_handed_back_where_another_form_may_fit(
    make_rig: Callable[..., Any], name: str, payload: str, in_other_forms: bool, outcome: str
) -> None:
    rig = make_rig(resize, resize_async)
    task = tasks.Task(id="t", handler=name, payload=payload).SerializeToString()
    rig.executor.feed([session.Grant(fence=1, id="t", attempt=1, task=task, in_other_forms=in_other_forms)])
    report = await rig.report(1)
    if outcome == "unfit":
        assert report.outcome == tasks.ATTEMPT_OUTCOME_INTERRUPTED
        assert (report.unfit, report.not_started) == (True, True)
        assert report.reason.startswith("payload: ")
        assert not report.HasField("failure")
    elif outcome == "REJECTED":
        assert report.failure.kind == tasks.FAILURE_KIND_REJECTED
        assert not report.unfit
    else:
        assert report.outcome == tasks.ATTEMPT_OUTCOME_COMPLETED


def test_forms_tell_types_apart_and_not_classes() -> None:
    again = dataclasses.make_dataclass("Job", [("path", str)])
    more = dataclasses.make_dataclass("Job", [("path", str), ("grey", bool, False)])
    assert form_of(again) == form_of(Job)
    assert len({form_of(annotation) for annotation in (Job, more, Struct, Model, int, str)}) == 6
    assert all(len(form_of(annotation)) == 32 for annotation in (Job, Struct, Model, int))


def test_a_type_without_a_schema_has_no_form() -> None:
    assert form_of(Odd) == ""


def _made_anew(kind: str) -> Any:
    """A type as each process makes it."""
    made: datetime.datetime = datetime.datetime.now(datetime.UTC)
    if kind == "dataclass":
        return dataclasses.make_dataclass("Job", [("made", datetime.datetime, made), ("id", uuid.UUID, uuid.uuid4())])
    if kind == "struct":
        return msgspec.defstruct("Job", [("made", datetime.datetime, made), ("id", uuid.UUID, uuid.uuid4())])
    if kind == "model":
        return pydantic.create_model("Job", made=(datetime.datetime, made), odd=(Any, object()))
    return Annotated[Struct, msgspec.Meta(description=str(made))]


@pytest.mark.parametrize("kind", ["dataclass", "struct", "model", "note"])
def test_a_form_is_the_same_in_each_process_that_makes_its_defaults_anew(kind: str) -> None:
    assert len(form_of(_made_anew(kind))) == 32
    assert form_of(_made_anew(kind)) == form_of(_made_anew(kind))


def test_a_text_or_a_default_is_no_other_form_and_a_field_is() -> None:
    def model(**fields: Any) -> Any:
        return pydantic.create_model("Job", **fields)

    plain = model(title=(str, "a"), description=(str, "b"))
    assert form_of(model(title=(str, pydantic.Field("c", title="T", description="d")), description=(str, "e"))) == (
        form_of(plain)
    )
    assert form_of(model(title=(str, ...), description=(str, "b"))) != form_of(plain)
    assert form_of(model(description=(str, "b"))) != form_of(plain)


def test_a_model_within_another_type_counts() -> None:
    class More(pydantic.BaseModel):
        path: str
        grey: bool = False

    More.__name__ = More.__qualname__ = "Model"
    around, around_more = (msgspec.defstruct("Around", [("model", kind)]) for kind in (Model, More))
    pairs: list[tuple[Any, Any]] = [
        (list[Model], list[More]),
        (Model | None, More | None),
        (dict[str, Model], dict[str, More]),
    ]
    pairs += [(around, around_more), (Model | int, More | int)]
    for one, other in pairs:
        assert len(form_of(one)) == len(form_of(other)) == 32, one
        assert form_of(one) != form_of(other), one
