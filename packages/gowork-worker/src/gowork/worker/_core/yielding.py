"""Generators as context managers, around handlers whose exceptions may be of any kind.

contextlib's write into the exception that goes through them. Some exceptions refuse that, such as those that are frozen
dataclasses. Then the hook would seem to have failed, and the handler's own exception would be lost.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator
from types import TracebackType
from typing import Any


class Yielding:
    """A generator that yields once."""

    def __init__(self, generator: Generator[Any, None, None]) -> None:
        """Args:
        generator: has not begun.
        """
        self._generator = generator

    def __enter__(self) -> None:
        try:
            next(self._generator)
        except StopIteration:
            raise RuntimeError("generator didn't yield") from None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        try:
            if error is None:
                next(self._generator)
            else:
                self._generator.throw(error)
        except StopIteration as end:
            return error is not None and end is not error
        except BaseException as own:
            if error is not None and _is_passed_on(own, error):
                _forget_frames(error, trace)
                return False
            raise
        try:
            raise RuntimeError("generator didn't stop")
        finally:
            self._generator.close()


class YieldingAsync:
    """Does as Yielding, for an async generator."""

    def __init__(self, generator: AsyncGenerator[Any, None]) -> None:
        """Args:
        generator: has not begun.
        """
        self._generator = generator

    async def __aenter__(self) -> None:
        try:
            await anext(self._generator)
        except StopAsyncIteration:
            raise RuntimeError("generator didn't yield") from None

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        try:
            if error is None:
                await anext(self._generator)
            else:
                await self._generator.athrow(error)
        except StopAsyncIteration as end:
            return error is not None and end is not error
        except BaseException as own:
            if error is not None and _is_passed_on(own, error):
                _forget_frames(error, trace)
                return False
            raise
        try:
            raise RuntimeError("generator didn't stop")
        finally:
            await self._generator.aclose()


def yielding(function: Callable[..., Generator[Any, None, None]]) -> Callable[..., Yielding]:
    """Does as contextlib.contextmanager."""
    return lambda *arguments: Yielding(function(*arguments))


def yielding_async(function: Callable[..., AsyncGenerator[Any, None]]) -> Callable[..., YieldingAsync]:
    """Does as contextlib.asynccontextmanager."""
    return lambda *arguments: YieldingAsync(function(*arguments))


def is_refusal(own: BaseException, error: BaseException | None) -> bool:
    """Whether contextlib has raised this, because the exception that went through it let nothing be written into it."""
    # attrs has a class of the same name.
    return error is not None and own.__context__ is error and type(own).__name__ == "FrozenInstanceError"


def _is_passed_on(own: BaseException, error: BaseException) -> bool:
    """Whether the generator has raised what was thrown into it."""
    if own is error:
        return True
    # This is what the interpreter makes of such an exception that leaves a generator.
    is_end = isinstance(error, StopIteration | StopAsyncIteration)
    return is_end and isinstance(own, RuntimeError) and own.__cause__ is error


def _forget_frames(error: BaseException, trace: TracebackType | None) -> None:
    # The frames of hooks tell nothing about the handler. Unlike an assignment, this works for all exceptions.
    BaseException.with_traceback(error, trace)
