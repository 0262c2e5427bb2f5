"""What a runner sets up before its first task and takes down after its last: generators that fill `ctx.state`."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, TypeVar

from gowork.worker.errors import HandlerDefinitionError

#: A generator function of one parameter, the state, that yields once.
Lifespan = Callable[[Any], AsyncIterator[None]] | Callable[[Any], Iterator[None]]
L = TypeVar("L", bound=Callable[[Any], Any])


def lifespan(function: L) -> L:
    """Marks a generator function, async or plain, that each runner enters before its first task.

        @lifespan
        async def database(state):
            state.pool = await open_pool()
            yield  # Tasks run now.
            await state.pool.close()

    Raises:
        HandlerDefinitionError: when it is no generator function.
    """
    if not (inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function)):
        raise HandlerDefinitionError(f"lifespan {function!r}: write a generator function that yields once")
    function.__gowork_lifespan__ = True  # type: ignore[attr-defined]
    return function


def is_lifespan(function: object) -> bool:
    """Whether @lifespan marked it."""
    try:
        return getattr(function, "__gowork_lifespan__", False) is True
    except Exception:  # noqa: BLE001 - modules hold foreign objects, and these may raise anything
        return False


async def enter(stack: AsyncExitStack, lifespans: Iterable[Lifespan], state: Any) -> None:
    """Enters all lifespans in order. `stack` leaves them in reverse.

    Raises:
        Exception: whatever one of them raises before it yields.
    """
    for function in lifespans:
        if inspect.isasyncgenfunction(function):
            await stack.enter_async_context(asynccontextmanager(function)(state))
        else:
            stack.enter_context(contextmanager(function)(state))  # type: ignore[arg-type]
