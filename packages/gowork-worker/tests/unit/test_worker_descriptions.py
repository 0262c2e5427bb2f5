"""How handlers are described to clients: schemas, documentation, and the same bytes in every process."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypedDict
from uuid import UUID, uuid4

import attrs
import msgspec
import pydantic
import pytest

from gowork.proto import limits
from gowork.worker import Context, handler
from gowork.worker._core.calls import bind
from gowork.worker._core.descriptions import describe, digest_of, schema_of
from gowork.worker._core.handlers import options_of
from gowork.worker._core.plugins import load
from gowork.worker._core.selection import Selection
from gowork.worker._runner import messages
from gowork.worker._runner.main import ready_of


@dataclass
class Plain:
    name: str
    width: int = 1


class Typed(TypedDict):
    name: str


class Struct(msgspec.Struct):
    name: str


@attrs.define
class Attrs:
    name: str


class Model(pydantic.BaseModel):
    name: str


class Aliased(pydantic.BaseModel):
    own_name: str = pydantic.Field(alias="ownName")


@dataclass
class Around:
    model: Model


if TYPE_CHECKING:
    Large = str
else:
    Large = Literal[tuple("x" * 1000 + str(number) for number in range(100))]


class Opaque:
    def __init__(self, something: object) -> None: ...


def described(function: Any) -> dict[str, Any]:
    options = options_of(handler(function))
    assert options is not None
    found: dict[str, Any] = json.loads(describe(bind(function, options, "p"))[0])
    return found


@pytest.mark.parametrize("kind", [Plain, Typed, Struct, Attrs, Model])
def test_each_kind_of_type_has_a_schema_with_its_fields(kind: Any) -> None:
    schema = schema_of(kind)
    schema = schema.get("$defs", {}).get(kind.__name__, schema)
    assert schema["required"] == ["name"]
    assert schema["properties"]["name"]["type"] == "string"


@pytest.mark.parametrize(
    ("kind", "schema"),
    [
        (int, {"type": "integer"}),
        (list[int], {"type": "array", "items": {"type": "integer"}}),
        (int | None, {"anyOf": [{"type": "integer"}, {"type": "null"}]}),
        (Literal["a"], {"enum": ["a"]}),
        (Annotated[int, msgspec.Meta(ge=1)], {"type": "integer", "minimum": 1}),
        (Decimal, {"type": ["string", "number"], "format": "decimal"}),
        (None, {"type": "null"}),
        (Any, None),
        (object, None),
        (Opaque, None),
    ],
)
def test_plain_types_have_plain_schemas(kind: Any, schema: object) -> None:
    assert schema_of(kind) == schema


def test_a_model_with_aliases_is_described_by_both_names() -> None:
    by_alias, by_name = schema_of(Aliased)["anyOf"]
    assert (by_alias["required"], by_name["required"]) == (["ownName"], ["own_name"])


def test_references_within_a_model_stay_its_own() -> None:
    model = schema_of(Around)["$defs"]["Around"]["properties"]["model"]
    assert model["$id"].startswith("gowork:")
    assert model["required"] == ["name"]


def test_a_handler_is_described_with_its_documentation() -> None:
    def resize(ctx: Context, job: Plain) -> list[int]:
        """Makes it\x07 smaller.

        Further lines are left out.
        """
        return [job.width]

    assert described(resize) == {
        "doc": "Makes it smaller.",
        "payload": schema_of(Plain),
        "result": {"type": "array", "items": {"type": "integer"}},
    }


def test_what_a_handler_need_not_be_given_is_told() -> None:
    def nothing(ctx: Context) -> None: ...
    def optional(ctx: Context, job: Plain | None = None): ...
    def anything(job): ...

    assert described(nothing) == {"takes_payload": False, "result": {"type": "null"}}
    assert described(optional)["payload_optional"] is True
    assert described(anything) == {}


def test_a_description_that_would_be_too_large_lacks_a_schema() -> None:
    def function(job: Large) -> int:
        """Says so."""
        return 1

    assert len(json.dumps(schema_of(Large))) > limits.HANDLER_DESCRIPTION_BYTES_MAX
    assert described(function) == {"doc": "Says so.", "result": {"type": "integer"}}


class Wordy(pydantic.BaseModel):
    title: int = pydantic.Field(description="d" * 70_000)


def test_a_large_schema_does_without_titles_and_descriptions() -> None:
    def function(job: Wordy) -> None: ...

    assert described(function)["payload"] == {
        "type": "object",
        "properties": {"title": {"type": "integer"}},
        "required": ["title"],
    }


def test_a_schema_that_is_left_out_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    def function(job: Large) -> None: ...

    loaded = load(Selection(), [handler("large")(function)])
    assert ready_of(loaded).handlers
    (record,) = [record for record in caplog.records if "too large" in record.message]
    assert (vars(record)["handler"], vars(record)["schema"]) == ("large", "payload")


def test_defaults_that_differ_between_processes_are_left_out() -> None:
    @dataclass
    class Job:
        id: UUID = field(default_factory=uuid4)
        at: str = str(uuid4())

    class Pydantic(pydantic.BaseModel):
        at: str = str(uuid4())

    assert "default" not in json.dumps([schema_of(Job), schema_of(Pydantic)])


def test_every_process_describes_a_handler_in_the_same_bytes() -> None:
    program = (
        "from gowork.worker._core.plugins import load\n"
        "from gowork.worker._core.selection import Selection\n"
        "from gowork.worker._core.descriptions import describe, digest_of\n"
        "print(digest_of(describe(load(Selection()).handlers['echo'])[0]))"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(digests) == 1
    assert len(digests.pop().strip()) == limits.HANDLER_DIGEST_DIGITS
    assert digest_of("") == ""


def test_a_runner_of_isolated_tasks_makes_no_schemas() -> None:
    loaded = load(Selection())
    assert all(note.description for note in ready_of(loaded).handlers)
    assert not any(note.description for note in ready_of(loaded, describes=False).handlers)


def test_a_worker_has_a_bound_for_all_descriptions(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load(Selection())
    monkeypatch.setattr(messages, "DESCRIPTIONS_BYTES_MAX", 10)
    assert not any(note.description for note in ready_of(loaded).handlers)
