"""A result is checked against the type that its handler is annotated to return."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypedDict

import pydantic
import pytest

from gowork.worker import handler
from gowork.worker._core.calls import bind
from gowork.worker._core.codec import encode_result
from gowork.worker._core.handlers import options_of
from gowork.worker.testing import run_handler

if TYPE_CHECKING:
    pass


@dataclass
class Size:
    width: int


class Row(TypedDict):
    width: int


class Colour(StrEnum):
    RED = "red"


class Model(pydantic.BaseModel, extra="forbid"):
    width: int

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return self.width * 2


def returning(annotation: Any, value: Any) -> Any:
    def function():
        return value

    function.__annotations__["return"] = annotation
    return handler(function)


@handler
def plain_size() -> Size:
    return Size("wide")  # type: ignore[arg-type]


@handler
async def async_size() -> Size:
    return Size("wide")  # type: ignore[arg-type]


@pytest.mark.parametrize("function", [plain_size, async_size])
def test_a_result_of_another_type_fails_with_its_field(function: Any) -> None:
    failure = run_handler(function).failure
    assert failure is not None
    assert failure.type == "ResultError"
    assert "is not Size" in failure.message
    assert "`$.width`" in failure.message
    assert "change the annotation" in failure.message


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Size, {"width": "wide"}),
        (Size, None),
        (int, "1"),
        (int | None, "1"),
        (str, 1),
        (str, b"1"),
        (bytes, "1"),
        (None, 1),
        (list[int], ["a"]),
        (Row, {}),
        (Model, {"width": "wide"}),
        (Colour, "green"),
    ],
)
def test_what_is_not_of_the_annotated_type_is_refused(annotation: Any, value: Any) -> None:
    assert run_handler(returning(annotation, value)).failure is not None


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (Size, Size(1)),
        (Size, {"width": 1}),
        (float, 1),
        (int | None, None),
        (None, None),
        (str, Colour.RED),
        (Colour, Colour.RED),
        (bytes, b""),
        (str, ""),
        (str | bytes | int, 1),
        (tuple[int, ...], (1, 2)),
        (Row, {"width": 1}),
        (Model, Model(width=1)),
        (object, [1]),
        (Any, [1]),
        (Iterator[int], [1]),
        ("Decimal", 1),
    ],
)
def test_what_fits_or_cannot_be_checked_completes(annotation: Any, value: Any) -> None:
    assert run_handler(returning(annotation, value)).failure is None


def test_a_result_that_fits_any_type_is_not_read_again() -> None:
    for annotation in (Any, object):
        function = returning(annotation, 1)
        options = options_of(function)
        assert options is not None
        assert bind(function, options, "p").check_result is None


def test_a_model_of_the_annotated_class_need_not_read_what_it_writes() -> None:
    function = returning(Model, None)
    options = options_of(function)
    assert options is not None
    check = bind(function, options, "p").check_result
    assert check is not None
    check(Model(width=1), *encode_result(Model(width=1)))
