"""A handler gets the value that a client schedules: any value of any type that loads, each side by its own code."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import itertools
import uuid
from collections.abc import Callable
from decimal import Decimal
from typing import Annotated, Any, Literal, NewType, TypedDict, Union, get_args

import attrs
import msgspec
import pydantic
import pydantic_core
from hypothesis import HealthCheck, assume, given, reject, settings
from hypothesis import strategies as st

from gowork.client._payloads import decode_result
from gowork.client._payloads import encode_payload as client_encode
from gowork.client.errors import InvalidArgument
from gowork.worker._core.codec import PayloadError, ResultError, decoder_of, encode_result
from gowork.worker._core.codec import encode_payload as worker_encode


class Colour(enum.StrEnum):
    RED = "red"
    ONE = "1"
    NOTHING = "null"


class Shade(str, enum.Enum):  # noqa: UP042 - as people wrote it before there was StrEnum
    DARK = "dark"
    NONE = "null"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 3


class Kind(enum.Enum):
    SMALL = "small"
    LARGE = "large"


UserId = NewType("UserId", str)
#: (type, strategy of its values)
Case = tuple[Any, st.SearchStrategy[Any]]

_texts = st.one_of(st.text(), st.sampled_from(["null", "5", "true", '"x"', "{}", "[1]", " ", "NaN", "1e5"]))
_finite = st.floats(allow_nan=False, allow_infinity=False)
_NATURAL = Annotated[int, msgspec.Meta(ge=0)]
_LEAVES: list[Case] = [
    (str, _texts),
    (int, st.integers()),
    (float, _finite),
    (bool, st.booleans()),
    (bytes, st.binary()),
    (type(None), st.none()),
    (dt.datetime, st.datetimes(timezones=st.sampled_from([None, dt.UTC]))),
    (dt.date, st.dates()),
    (dt.timedelta, st.timedeltas(dt.timedelta(days=-9999), dt.timedelta(days=9999))),
    (Decimal, st.decimals(allow_nan=False, allow_infinity=False)),
    (uuid.UUID, st.uuids()),
    (Colour, st.sampled_from(Colour)),
    (Shade, st.sampled_from(Shade)),
    (Level, st.sampled_from(Level)),
    (Kind, st.sampled_from(Kind)),
    (Literal["a", "5", 5], st.sampled_from(["a", "5", 5])),
    (UserId, _texts),
    (Annotated[str, "a note"], _texts),
    (_NATURAL, st.integers(min_value=0)),
]
_KEYS: list[Case] = [(str, st.text()), (int, st.integers()), (uuid.UUID, st.uuids()), (Level, st.sampled_from(Level))]
_names = (f"T{number}" for number in itertools.count())


def _list(item: Case) -> Case:
    return list[item[0]], st.lists(item[1], max_size=3)  # type: ignore[valid-type]


def _pair(items: tuple[Case, Case]) -> Case:
    return tuple[items[0][0], items[1][0]], st.tuples(items[0][1], items[1][1])  # type: ignore[misc]


def _dict(items: tuple[Case, Case]) -> Case:
    return dict[items[0][0], items[1][0]], st.dictionaries(items[0][1], items[1][1], max_size=3)  # type: ignore[misc]


def _optional(item: Case) -> Case:
    return Union[item[0], None], st.none() | item[1]  # noqa: UP007 - made at run time


def _union(items: tuple[Case, Case]) -> Case:
    made: Any = Union[items[0][0], items[1][0]]  # noqa: UP007 - made at run time
    if {int, _NATURAL} <= set(get_args(made)):
        # msgspec holds every number to the bounds of either.
        reject()
    if all(_has_a_field(each) for each in get_args(made)):
        # What is written says nothing of which of the two it was.
        reject()
    return made, items[0][1] | items[1][1]


def _has_a_field(kind: Any) -> bool:
    # Dataclasses that older versions of pydantic make have no annotations.
    return any("first_field" in getattr(kind, name, ()) for name in ("__annotations__", "__dataclass_fields__"))


def _dataclass(item: Case) -> Case:
    made = dataclasses.make_dataclass(next(_names), [("first_field", item[0])])
    return made, item[1].map(made)


def _struct(item: Case) -> Case:
    made = msgspec.defstruct(next(_names), [("first_field", item[0])], rename="camel")
    return made, item[1].map(made)


def _attrs(item: Case) -> Case:
    made = attrs.make_class(next(_names), {"first_field": attrs.field(type=item[0])})
    return made, item[1].map(made)


def _typed_dict(item: Case) -> Case:
    made = TypedDict(next(_names), {"first_field": item[0]})  # type: ignore[misc]  # noqa: UP013 - made at run time
    return made, item[1].map(lambda value: {"first_field": value})


def _of_pydantic(make: Callable[[], Any]) -> Any:
    """Calls pydantic, and rejects the example when pydantic does not know one of its types or refuses its value."""
    try:
        return make()
    except (pydantic.errors.PydanticUserError, pydantic.ValidationError):
        reject()


def _readable(made: Any, value: Any) -> Any:
    """The value, if pydantic reads it back the same from its own JSON; for example, it writes text and bytes alike."""
    adapter = pydantic.TypeAdapter(made)
    try:
        written = adapter.dump_json(value, by_alias=False, round_trip=True)
    except pydantic_core.PydanticSerializationError:
        reject()
    if _of_pydantic(lambda: adapter.validate_json(written, by_name=True, by_alias=False)) != value:
        reject()
    return value


def _model(item: Case) -> Case:
    field = (item[0], pydantic.Field(alias="firstField"))
    made = _of_pydantic(lambda: pydantic.create_model(next(_names), first_field=field))
    return made, item[1].map(lambda value: _readable(made, _of_pydantic(lambda: made(firstField=value))))


def _model_of_two_names(item: Case) -> Case:
    field = (item[0], pydantic.Field(validation_alias="read", serialization_alias="written"))
    made = _of_pydantic(lambda: pydantic.create_model(next(_names), first_field=field))
    return made, item[1].map(lambda value: _readable(made, _of_pydantic(lambda: made(read=value))))


def _validated(item: Case) -> Case:
    plain = dataclasses.make_dataclass(next(_names), [("first_field", item[0])])
    made = _of_pydantic(lambda: pydantic.dataclasses.dataclass(plain))
    return made, item[1].map(lambda value: _readable(made, _of_pydantic(lambda: made(value))))


_types = st.recursive(
    st.sampled_from(_LEAVES),
    lambda inner: st.one_of(
        *(
            inner.map(make)
            for make in (
                _list,
                _optional,
                _dataclass,
                _struct,
                _attrs,
                _typed_dict,
                _model,
                _model_of_two_names,
                _validated,
            )
        ),
        st.tuples(inner, inner).map(_pair),
        st.tuples(inner, inner).map(_union),
        st.tuples(st.sampled_from(_KEYS), inner).map(_dict),
    ),
    max_leaves=4,
)


def _is_text_too(annotation: Any, value: object) -> bool:
    """Whether a member of an enum of texts is sent as its text, and a text is what may be meant by that, too."""
    return isinstance(value, Colour) and str in get_args(annotation)


@given(case=_types, data=st.data())
@settings(max_examples=400, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow], deadline=None)
def test_what_a_client_or_a_handler_schedules_a_handler_gets(case: Case, data: st.DataObject) -> None:
    annotation, values = case
    try:
        decode = decoder_of(annotation)
    except PayloadError:
        # Refused when the handler is loaded.
        assume(False)
    value = data.draw(values)
    try:
        sent = client_encode(value)
    except InvalidArgument:
        # Refused when it is sent, such as bytes in a pydantic model, which pydantic writes as UTF-8.
        assume(False)
    assert worker_encode(value) == sent
    got = decode(*sent)
    assert got == value
    assert type(got) is type(value) or _is_text_too(annotation, value)


@given(case=_types, data=st.data())
@settings(max_examples=200, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow], deadline=None)
def test_what_a_handler_returns_its_caller_gets(case: Case, data: st.DataObject) -> None:
    annotation, values = case
    try:
        decoder_of(annotation)
        value = data.draw(values)
        text, raw = encode_result(value)
    except (PayloadError, ResultError):
        assume(False)
    got = decode_result(text, raw, annotation, is_empty_data=not text and not raw)
    assert got == value
    assert type(got) is type(value) or _is_text_too(annotation, value)


@given(value=_texts | st.binary() | st.integers() | st.none() | st.lists(_texts))
def test_a_handler_of_anything_tells_texts_bytes_and_values_apart(value: object) -> None:
    got = decoder_of(Any)(*client_encode(value))
    assert got == value
    assert type(got) is type(value)
