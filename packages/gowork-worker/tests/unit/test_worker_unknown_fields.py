from __future__ import annotations

import dataclasses
import logging
from typing import Any, TypedDict

import msgspec
import pydantic
import pytest

from gowork.worker import Context, handler
from gowork.worker._core.calls import bind
from gowork.worker._core.handlers import options_of
from gowork.worker._core.unknown_fields import FIELDS_NAMED_MAX


@dataclasses.dataclass
class Job:
    path: str


class Tree(msgspec.Struct, rename="camel"):
    node_name: str = ""
    children: list[Tree] = []


class Row(TypedDict, total=False):
    name: str


class Open(msgspec.Struct, tag="open"):
    door: int = 0


class Shut(msgspec.Struct, tag="shut"):
    lock: int = 0


class Model(pydantic.BaseModel):
    size: int = pydantic.Field(alias="theSize", default=1)
    leaf: Job | None = None


class Keeping(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")


class Forbidding(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")


class Strict(msgspec.Struct, forbid_unknown_fields=True):
    size: int = 0


def named_after(annotation: Any, *payloads: str, caplog: pytest.LogCaptureFixture) -> list[str]:
    """The fields that were named after these payloads."""

    @handler("h")
    def takes(payload):
        return payload

    takes.__annotations__["payload"] = annotation
    options = options_of(takes)
    assert options is not None
    bound = bind(takes, options, "p")
    with caplog.at_level(logging.WARNING):
        for payload in payloads:
            bound.arguments(Context(id="t", attempt=1, payload=payload))
    assert all(vars(record)["handler"] == "h" for record in caplog.records)
    return [vars(record)["field"] for record in caplog.records]


@pytest.mark.parametrize(
    ("annotation", "payload", "named"),
    [
        (Job, '{"path": "a", "grey": true}', ["grey"]),
        (Job | None, '{"path": "a", "grey": true}', ["grey"]),
        (Job | str, '{"path": "a", "grey": true}', ["grey"]),
        (list[Job], '[{"path": "a"}, {"path": "b", "x": 1}]', ["x"]),
        (dict[str, Job], '{"any": {"path": "a", "x": 1}}', ["any.x"]),
        (Row, '{"name": "a", "x": 1}', ["x"]),
        (Tree, '{"nodeName": "a", "children": [{"children": [{"node_name": "b"}]}]}', ["children.children.node_name"]),
        (Open | Shut, '{"type": "open", "door": 1, "handle": 2}', ["handle"]),
        (Model, '{"theSize": 1, "size": 1, "leaf": {"path": "a", "y": 1}, "x": 2}', ["leaf.y", "x"]),
        (list[Model], '[{"x": 2}]', ["x"]),
        (Job, '{"path": "a"}', []),
        (dict[str, int], '{"x": 1}', []),
        (Keeping, '{"x": 1}', []),
        (Job | str, "no json", []),
    ],
)
def test_a_field_that_the_type_does_not_have_is_named(
    annotation: Any, payload: str, named: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert named_after(annotation, payload, caplog=caplog) == named


def test_each_field_is_named_once(caplog: pytest.LogCaptureFixture) -> None:
    payloads = ['{"path": "a", "x": 1}', '{"path": "a", "x": 2}', '{"path": "a", "x": 1, "y": 1}']
    assert named_after(Job, *payloads, caplog=caplog) == ["x", "y"]


def test_names_from_outside_are_bounded(caplog: pytest.LogCaptureFixture) -> None:
    payloads = [f'{{"path": "a", "x{n}": 1}}' for n in range(FIELDS_NAMED_MAX + 10)]
    assert len(named_after(Job, *payloads, caplog=caplog)) == FIELDS_NAMED_MAX


@pytest.mark.parametrize("annotation", [Strict, Forbidding, list[Strict]])
def test_a_type_may_refuse_unknown_fields_by_its_own_setting(annotation: Any, caplog: pytest.LogCaptureFixture) -> None:
    payload = '[{"x": 1}]' if annotation == list[Strict] else '{"x": 1}'
    with pytest.raises(Exception, match=r"x.*"):
        named_after(annotation, payload, caplog=caplog)
