from __future__ import annotations

import dataclasses
import enum
import math
from typing import Any

import attrs
import msgspec
import pydantic
import pytest

from gowork.base import values
from gowork.base.values import ValueRefused, encode_payload, encode_result
from gowork.proto import limits
from gowork.proto.scheduler.v1 import scheduler_pb2


class Float64(float):
    """As numpy.float64 is."""


class Whole(int):
    pass


class Word(str):
    __slots__ = ()


class Level(enum.IntEnum):
    HIGH = 3


class Scalar:
    """As numpy's other scalars, and arrays without dimensions, are."""

    shape = ()

    def __init__(self, value: object) -> None:
        self._value = value

    def item(self) -> object:
        return self._value


@dataclasses.dataclass
class Row:
    cell: object


@attrs.define
class Box:
    content: object


class Packet(msgspec.Struct):
    body: object


class Model(pydantic.BaseModel):
    mean: float = 0.0
    note: str | None = None


class Lenient(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(ser_json_inf_nan="strings")
    mean: float


class Plain(pydantic.BaseModel):
    """As pydantic writes constants, which JSON does not know."""

    model_config = pydantic.ConfigDict(ser_json_inf_nan="constants")
    mean: float


class Leg(pydantic.BaseModel):
    from_city: str = pydantic.Field(alias="fromCity")

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def letters(self) -> int:
        return len(self.from_city)


def test_forms_are_those_of_the_contract() -> None:
    assert scheduler_pb2.PAYLOAD_FORM_TEXT == values.FORM_TEXT
    assert scheduler_pb2.PAYLOAD_FORM_DATA == values.FORM_DATA


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Float64(1.5), "1.5"),
        ({"mean": Float64(1.5), "n": Whole(3), "w": Word("x"), "l": Level.HIGH}, '{"mean":1.5,"n":3,"w":"x","l":3}'),
        ([Scalar(1.5), Scalar(3), Scalar(True)], "[1.5,3,true]"),
        ({Whole(1): "a", Float64(2.5): "b", Word("c"): "d"}, '{"1":"a","2.5":"b","c":"d"}'),
        (Row(Float64(2)), '{"cell":2.0}'),
        (Box([Whole(2)]), '{"content":[2]}'),
    ],
)
def test_subclasses_of_numbers_and_texts_are_written_by_value(value: object, text: str) -> None:
    assert encode_payload(value) == (text, b"", values.FORM_UNSPECIFIED)
    assert encode_result(value) == (text, b"")


@pytest.mark.parametrize(
    ("value", "place"),
    [
        (math.nan, "$"),
        (Float64("inf"), "$"),
        ({"rows": [1, {"mean": -math.inf}], "none": None}, "$.rows[1].mean"),
        (Row({"a": (1, math.nan)}), "$.cell.a[1]"),
        (Packet(Scalar(math.nan)), "$.body"),
        ({"m": Model(mean=math.nan)}, "$.m.mean"),
        ([Model(mean=math.inf)], "$[0].mean"),
        (Model(mean=math.nan), "$.mean"),
        (Plain(mean=math.inf), "$.mean"),
        ({math.nan: 1}, "$[…]"),
        ({math.inf: 1}, "$[…]"),
    ],
)
@pytest.mark.parametrize("encode", [encode_payload, encode_result])
def test_numbers_that_are_not_finite_are_refused_with_their_place(encode: Any, value: object, place: str) -> None:
    with pytest.raises(ValueRefused, match=r"finite numbers only - at `(.*)`") as raised:
        encode(value)
    assert str(raised.value).endswith(f"`{place}`")


@pytest.mark.parametrize("value", [None, {"a": None}, ["null"], {"null": "NaN"}, Model(), [Row(None)], "NaN"])
@pytest.mark.parametrize("encode", [encode_payload, encode_result])
def test_nothing_and_words_like_it_are_no_numbers(encode: Any, value: object) -> None:
    encode(value)


def test_a_model_that_writes_nan_as_a_string_may() -> None:
    assert encode_payload([None, Lenient(mean=math.nan)])[0] == '[null,{"mean":"NaN"}]'


@pytest.mark.parametrize(
    ("value", "place", "kind"),
    [
        (object(), "$", "object"),
        ({"a": [Row({"b": 1j})]}, "$.a[0].cell.b", "complex"),
        ({"x": {(1, 2): 3}}, "$.x[(1, 2)]", "tuple"),
        ({"x": [Packet(Box({3, 1j}))]}, None, "complex"),
        ({True: 1}, "$[True]", "bool"),
        ({None: 1}, "$[None]", "NoneType"),
        ({"x": "\ud800"}, "$.x", "str"),
        ([{}.keys()], "$[0]", "dict_keys"),
    ],
)
@pytest.mark.parametrize("encode", [encode_payload, encode_result])
def test_what_json_cannot_hold_is_refused_with_its_place_and_type(
    encode: Any, value: object, place: str | None, kind: str
) -> None:
    with pytest.raises(ValueRefused, match=f"^{kind} cannot be written as JSON: ") as raised:
        encode(value)
    if place is not None:
        assert str(raised.value).endswith(f"at `{place}`")


def test_what_a_value_s_own_code_raises_is_refused_too() -> None:
    class Trap:
        shape = ()

        def item(self) -> object:
            raise KeyError("gone")

    with pytest.raises(ValueRefused, match=r"Trap cannot be written as JSON: 'gone' - at `\$\[1\]`"):
        encode_payload([1, Trap()])


def test_a_value_that_contains_itself_is_refused() -> None:
    value: list[object] = []
    value.append(value)
    with pytest.raises(ValueRefused, match="list is nested too deeply, or contains itself"):
        encode_payload(value)


def test_a_text_with_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(ValueRefused, match="lone surrogate at character 1"):
        encode_payload("x\ud800")


@pytest.mark.parametrize("value", ["é" * (limits.PAYLOAD_BYTES_MAX // 2 + 1), b"x" * (1 << 21), ["x" * (1 << 20)]])
@pytest.mark.parametrize("encode", [encode_payload, encode_result])
def test_a_value_over_the_limit_is_refused_with_size_limit_and_type(encode: Any, value: Any) -> None:
    with pytest.raises(ValueRefused, match=rf"^{type(value).__name__} of [\d,]+ bytes; at most 1,048,576"):
        encode(value)


class Shade(str, enum.Enum):  # noqa: UP042 - as it was written before there was StrEnum
    DARK = "dark"


def test_a_text_of_a_subclass_is_sent_as_the_text_that_it_is() -> None:
    assert encode_payload(Shade.DARK)[0] == "dark"
    assert type(encode_payload(Word("x"))[0]) is str


@pytest.mark.parametrize(
    ("value", "form"),
    [
        ("plain", values.FORM_UNSPECIFIED),
        ("", values.FORM_UNSPECIFIED),
        ("5", values.FORM_TEXT),
        ("null", values.FORM_TEXT),
        (" 5", values.FORM_TEXT),
        ('{"a":1}', values.FORM_TEXT),
        (b"5", values.FORM_UNSPECIFIED),
        (b"", values.FORM_DATA),
        (5, values.FORM_UNSPECIFIED),
        (msgspec.Raw(b"5"), values.FORM_UNSPECIFIED),
    ],
)
def test_only_what_could_be_mistaken_is_given_a_form(value: object, form: int) -> None:
    assert encode_payload(value)[2] == form


def test_a_model_is_sent_under_the_names_that_it_reads_and_answered_as_it_dumps_itself() -> None:
    leg = Leg(fromCity="Rome")
    assert encode_payload([leg])[0] == '[{"fromCity":"Rome"}]'
    assert encode_result([leg])[0] == '[{"from_city":"Rome","letters":4}]'
