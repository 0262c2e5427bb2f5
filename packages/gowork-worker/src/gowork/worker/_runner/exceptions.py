"""Texts of exceptions, even when an exception's own methods fail.

An exception's `__str__`, attributes, notes and metaclass run the handler's code, which may raise anything. Nothing here
raises because of that: each function has something to fall back on.
"""

from __future__ import annotations

import os
import traceback
from types import FrameType, TracebackType

from gowork.proto import limits

#: Most frames of a traceback, counted from the one that raised.
_FRAMES_MAX = 50
#: Most exceptions in a chain of `__cause__` or `__context__`, counted from the one that was raised last.
_CHAIN_MAX = 20
#: The first frames of a handler's traceback have their code in this folder, which calls the handler.
_HERE = os.path.dirname(__file__) + os.sep
_name_of = vars(type)["__name__"].__get__
_bases_of = vars(type)["__mro__"].__get__
_traceback_of = vars(BaseException)["__traceback__"].__get__


def type_name(error: BaseException) -> str:
    """The name of the exception's type, read without its metaclass."""
    return str.__str__(_name_of(type(error)))


def type_names(error: BaseException) -> set[str]:
    """The names of the exception's type and of all types that this derives from."""
    return {str.__str__(_name_of(base)) for base in _bases_of(type(error))}


def is_a(error: BaseException, kind: type[BaseException]) -> bool:
    """Answers as isinstance does, but does not read `__class__`, which may be a property."""
    return kind in _bases_of(type(error))


def text(error: BaseException) -> str:
    """The exception's message, cut to the limit of a report; never empty."""
    try:
        told = cut(str(error), limits.FAILURE_MESSAGE_BYTES_MAX)
    except BaseException as second:  # noqa: BLE001 - a broken __str__ may raise whatever it likes
        told = f"{type_name(error)}, whose text cannot be read: {type_name(second)}"
    return told or type_name(error)


def trace(error: BaseException) -> str:
    """The exception's traceback from the handler on, with its causes. When it is too long, its end."""
    frames = _frames_of_the_handler(_traceback_of(error))
    try:
        told = traceback.TracebackException(type(error), error, frames, limit=-_FRAMES_MAX, compact=True)
        _shorten(told)
        written = "".join(told.format())
    except BaseException as second:  # noqa: BLE001 - notes, arguments of a SyntaxError and sources are the handler's
        written = (
            f"Traceback (most recent call last):\n{_plain(frames)}{type_name(error)}: {text(error)}\n"
            f"(nothing more can be told of it: {type_name(second)} was raised on the way)\n"
        )
    return _end(written, limits.FAILURE_TRACEBACK_BYTES_MAX)


def cut(words: str, bytes_max: int) -> str:
    """The beginning of a text, in at most `bytes_max` bytes. Lone surrogates, which protobuf refuses, are written as
    escapes.
    """
    # Characters are cut first, so that the rest of a huge text is not even encoded. str's own methods are called,
    # because a subclass may have others.
    data = str.encode(str.__getitem__(words, slice(bytes_max + 1)), errors="backslashreplace")
    return (data if len(data) <= bytes_max else data[: bytes_max - 3] + "…".encode()).decode(errors="ignore")


def _end(words: str, bytes_max: int) -> str:
    return words.encode(errors="backslashreplace")[-bytes_max:].decode(errors="ignore")


def _frames_of_the_handler(frames: TracebackType | None) -> TracebackType | None:
    first = frames
    while first is not None and first.tb_frame.f_code.co_filename.startswith(_HERE):
        first = first.tb_next
    return first or frames


def _shorten(told: traceback.TracebackException) -> None:
    """Cuts the chain of causes, which grows without an end when a loop raises anew in each round."""
    for _ in range(_CHAIN_MAX):
        following = told.__cause__ or told.__context__
        if following is None:
            return
        told = following
    told.__cause__ = told.__context__ = None


def _plain(frames: TracebackType | None) -> str:
    """Writes frames without their source lines, because the loader of the source may be the handler's too."""
    lines = []
    while frames is not None:
        frame: FrameType = frames.tb_frame
        lines.append(f'  File "{frame.f_code.co_filename}", line {frames.tb_lineno}, in {frame.f_code.co_name}\n')
        frames = frames.tb_next
    return "".join(lines[-_FRAMES_MAX:])
