from __future__ import annotations

import collections
import dataclasses
import enum
import uuid
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, NewType, TypeVar

import msgspec
import pydantic
import pytest

from gowork.base.typed_values import Unfit, UnreadableType, reader_of
from gowork.base.values import FORM_DATA, FORM_TEXT, encode_payload


class Colour(enum.StrEnum):
    RED = "red"


class Mixed(enum.Enum):
    ONE = 1
    TWO = "two"


class Plain:
    pass


@dataclasses.dataclass
class Job:
    path: str


@dataclasses.dataclass
class Order:
    lines: list[Plain]


class Leg(pydantic.BaseModel):
    from_city: str = pydantic.Field(alias="fromCity")


class Renamed(pydantic.BaseModel):
    size: int = pydantic.Field(serialization_alias="s", default=1)
    leg: Leg | None = None


class Chosen(pydantic.BaseModel):
    size: int = pydantic.Field(validation_alias=pydantic.AliasChoices("width", "size_px"))


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    size: int

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def twice(self) -> int:
        return 2 * self.size


@pydantic.dataclasses.dataclass
class Checked:
    size: int = pydantic.Field(gt=0)
    leg: Leg | None = None


@pydantic.dataclasses.dataclass
class Around:
    renamed: Renamed


class Outer(pydantic.BaseModel):
    around: Around = pydantic.Field(alias="a")


@pydantic.dataclasses.dataclass
class WithBytes:
    body: bytes


UserId = NewType("UserId", str)
T = TypeVar("T")


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Leg, Leg(fromCity="Rome")),
        (list[Leg], [Leg(fromCity="Rome")]),
        (Leg | None, Leg(fromCity="Rome")),
        (Leg | int, 3),
        (dict[str, Leg], {"a": Leg(fromCity="Rome")}),
        (Renamed, Renamed(size=2, leg=Leg(fromCity="Rome"))),
        (list[Chosen], [Chosen.model_validate({"width": 3})]),
        (Outer, Outer(a=Around(Renamed(size=3)))),
        (Strict, Strict(size=3)),
        (Checked, Checked(size=1, leg=Leg(fromCity="Rome"))),
        (list[Checked], [Checked(size=1)]),
    ],
)
def test_pydantic_s_types_are_read_at_any_depth_whatever_their_aliases(annotation: Any, value: object) -> None:
    assert reader_of(annotation).payload(*encode_payload(value)) == value


def test_pydantic_s_dataclasses_are_validated_below_the_top_too() -> None:
    with pytest.raises(Unfit, match="greater than 0"):
        reader_of(list[Checked]).payload('[{"size": 0}]', b"", 0)


@pytest.mark.parametrize(
    ("annotation", "named"),
    [
        (Plain, "Plain"),
        (list[Plain], "Plain"),
        (dict[str, list[Plain]], "Plain"),
        (Order, "Plain"),
        (collections.deque, "deque"),
        (Callable[[], int], "Callable"),
        (Iterator[int], "Iterator"),
        (complex, "complex"),
        (type, "type"),
        (Mixed, "Mixed"),
        (Job | Checked, "Union"),
        (uuid.UUID | Colour, "UUID"),
        (WithBytes, "bytes"),
        (list[WithBytes], "bytes"),
        (Leg | dict[str, bytes], "bytes"),
        (Annotated[str | None, msgspec.Meta(max_length=3)], "Meta"),
    ],
)
def test_a_type_that_no_value_can_be_read_as_is_refused_by_name(annotation: Any, named: str) -> None:
    with pytest.raises(UnreadableType, match=named):
        reader_of(annotation)


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (str | None, "abc", "abc"),
        (str | None, '"abc"', "abc"),
        (str | None, "null", None),
        (str | None, "tru", "tru"),
        (Any, '{"a":1}', {"a": 1}),
        (Any, "abc", "abc"),
        (object, "5", 5),
        (Colour, "red", Colour.RED),
        (Colour, '"red"', Colour.RED),
        (Colour | Leg, "red", Colour.RED),
        (Colour | Leg, '"red"', Colour.RED),
        (Literal["a", "b"], "a", "a"),
        (uuid.UUID, str(uuid.UUID(int=3)), uuid.UUID(int=3)),
        (bytes | None, "null", None),
        (bytes | None, "xyz", b"xyz"),
        (UserId, "null", "null"),
        (Annotated[str, "a note"], "[1]", "[1]"),
        (Leg, '{"from_city": "Rome"}', Leg(fromCity="Rome")),
        (T, "[1]", [1]),
    ],
)
def test_a_text_whose_form_nobody_names_is_json_where_it_reads_so(annotation: Any, text: str, value: object) -> None:
    assert reader_of(annotation).payload(text, b"", 0) == value


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (str | None, "null", "null"),
        (str | int, "5", "5"),
        (Any, "5", "5"),
        (int, "5", 5),
        (dict[str, int], '{"a":1}', {"a": 1}),
        (bytes | None, "null", None),
    ],
)
def test_a_text_that_is_named_one_stays_one_where_texts_are_taken(annotation: Any, text: str, value: object) -> None:
    assert reader_of(annotation).payload(text, b"", FORM_TEXT) == value


@pytest.mark.parametrize("annotation", [bytes, bytes | None, bytearray, str | bytes, Any])
def test_empty_bytes_stay_bytes(annotation: Any) -> None:
    value = reader_of(annotation).payload("", b"", FORM_DATA)
    assert isinstance(value, (bytes, bytearray))
    assert not value


def test_bounds_of_a_text_are_kept() -> None:
    reader = reader_of(Annotated[str, msgspec.Meta(max_length=3)])
    assert reader.payload("abc", b"", 0) == "abc"
    with pytest.raises(Unfit, match="length <= 3"):
        reader.payload("abcd", b"", 0)


@pytest.mark.parametrize(
    ("annotation", "text", "data", "value"),
    [
        (str, '"x"', b"", "x"),
        (str | None, "null", b"", None),
        (bytes | None, "null", b"", None),
        (bytes | None, "", b"x", b"x"),
        (Colour, '"red"', b"", Colour.RED),
        (bytes, "", b"", b""),
        (Leg, '{"from_city":"Rome"}', b"", Leg(fromCity="Rome")),
        (str | int, '"5"', b"", "5"),
    ],
)
def test_a_result_s_text_is_always_json(annotation: Any, text: str, data: bytes, value: object) -> None:
    assert reader_of(annotation).result(text, data) == value


def test_empty_bytes_as_a_result_are_no_nothing() -> None:
    assert reader_of(bytes | None).result("", b"", is_empty_data=True) == b""
    with pytest.raises(Unfit, match="0 bytes"):
        reader_of(int | None).result("", b"", is_empty_data=True)


def test_a_model_that_does_not_fit_names_the_place_in_one_line() -> None:
    with pytest.raises(Unfit) as raised:
        reader_of(list[Leg]).payload('[{"fromCity": 5}]', b"", 0)
    assert str(raised.value) == "Input should be a valid string - at `$.fromCity` - at `$[0]`"


def test_a_text_that_is_no_json_is_told_with_what_is_needed() -> None:
    with pytest.raises(Unfit, match=r"JSON is malformed: .*; JSON of Job is needed"):
        reader_of(Job).payload("Ada", b"", 0)
    with pytest.raises(Unfit, match=r"^Expected `object`, got `int`$"):
        reader_of(Job).payload("7", b"", 0)


def test_bytes_that_only_begin_like_json_are_a_text_where_texts_are_taken() -> None:
    reader = reader_of(str | int)
    assert [reader.payload("", data, 0) for data in (b"12", b"true story")] == [12, "true story"]
