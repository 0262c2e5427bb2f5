from __future__ import annotations

import dataclasses
import inspect
from datetime import UTC, datetime
from typing import Any, TypedDict

import msgspec
import pytest

from gowork.worker._core.codec import PayloadError, ResultError, decoder_of, encode_result


@dataclasses.dataclass
class Job:
    path: str
    width: int = 5


class Point(msgspec.Struct):
    x: int


class Row(TypedDict):
    name: str


class Model:
    """Has the methods of pydantic's models that are used."""

    def __init__(self, value: int) -> None:
        self.value = value

    @classmethod
    def model_validate_json(cls, text: str | bytes) -> Model:
        value = msgspec.json.decode(text)
        if not isinstance(value, int):
            raise ModelError
        return cls(value)

    def model_dump_json(self) -> str:
        return f'{{"value":{self.value}}}'

    def model_dump(self, mode: str) -> dict[str, int]:
        return {"value": self.value}


class ModelError(ValueError):
    def errors(self) -> list[dict[str, Any]]:
        return [{"loc": ("a", 0), "msg": "should be a number"}]


@pytest.mark.parametrize(
    ("annotation", "text", "data", "value"),
    [
        (inspect.Parameter.empty, "as it is", b"", "as it is"),
        (inspect.Parameter.empty, "", b"\x00", b"\x00"),
        (str, "[1]", b"", "[1]"),
        (str, "", "ü".encode(), "ü"),
        (bytes, "", b"\xff", b"\xff"),
        (bytes, "text", b"", b"text"),
        (int, "3", b"", 3),
        (int, "", b"3", 3),
        (Any, '{"a": [1]}', b"", {"a": [1]}),
        (list[float], "[1, 2.5]", b"", [1.0, 2.5]),
        (Job, '{"path": "/x"}', b"", Job("/x")),
        (Point, '{"x": 1}', b"", Point(1)),
        (Row, '{"name": "n"}', b"", {"name": "n"}),
        (int | None, "null", b"", None),
        (datetime, '"2026-01-02T03:04:05Z"', b"", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)),
    ],
)
def test_payload_becomes_what_is_asked_for(annotation: Any, text: str, data: bytes, value: Any) -> None:
    assert decoder_of(annotation)(text, data, 0) == value


@pytest.mark.parametrize(
    ("annotation", "text", "word"),
    [
        (Job, '{"path": 1}', r"\$\.path"),
        (Job, "{}", "`path`"),
        (list[Point], '[{"x": 1}, {"x": "one"}]', r"\$\[1\]\.x"),
        (int, "", "empty"),
        (int, "{", "payload: "),
        (Model, '"no"', r"\$\.a\.0"),
    ],
)
def test_payload_that_does_not_fit_names_the_field(annotation: Any, text: str, word: str) -> None:
    with pytest.raises(PayloadError, match=word):
        decoder_of(annotation)(text, b"", 0)


def test_text_that_is_no_utf8_is_refused() -> None:
    with pytest.raises(PayloadError, match="UTF-8"):
        decoder_of(str)("", b"\xff", 0)


def test_empty_payload_becomes_the_default() -> None:
    assert decoder_of(int, 7)("", b"", 0) == 7
    assert decoder_of(int, 7)("8", b"", 0) == 8


def test_model_is_read_and_written_by_its_own_methods() -> None:
    model = decoder_of(Model)("4", b"", 0)
    assert encode_result(model) == ('{"value":4}', b"")
    assert encode_result([model]) == ('[{"value":4}]', b"")


@pytest.mark.parametrize(
    ("value", "text", "data"),
    [
        (None, "null", b""),
        ("text", '"text"', b""),
        ({"a": [1, 2.5]}, '{"a":[1,2.5]}', b""),
        (Job("/x"), '{"path":"/x","width":5}', b""),
        (Point(2), '{"x":2}', b""),
        (b"\x00\xff", "", b"\x00\xff"),
        (bytearray(b"ab"), "", b"ab"),
    ],
)
def test_result_becomes_json_or_bytes(value: Any, text: str, data: bytes) -> None:
    assert encode_result(value) == (text, data)


@pytest.mark.parametrize("value", [object(), {1j: 2}, "\ud800", float], ids=["object", "key", "surrogate", "class"])
def test_result_that_is_no_json_is_refused(value: Any) -> None:
    with pytest.raises(ResultError, match="cannot be written as JSON"):
        encode_result(value)


@pytest.mark.parametrize("value", [b"x" * ((1 << 20) + 1), "x" * (1 << 20)])
def test_result_over_the_limit_names_it(value: Any) -> None:
    with pytest.raises(ResultError, match="1,048,576"):
        encode_result(value)


def test_result_at_the_limit_is_taken() -> None:
    assert len(encode_result(b"x" * (1 << 20))[1]) == 1 << 20
