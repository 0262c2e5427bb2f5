"""A payload that does not fit here while other workers have the handler in another form."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import msgspec
import pydantic
import pytest

from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
from gowork.proto.worker.v1 import session_pb2 as session
from gowork.worker import handler
from gowork.worker._core.codec import form_of


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
        assert report.unfit
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
