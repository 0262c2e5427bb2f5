"""What a handler returns when its task is to go on after other tasks. This module imports no protobuf."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar, overload

from gowork.worker._core.codec import encode_payload
from gowork.worker._core.new_tasks import AfterRuleName, after_rule_of, handler_name, ids_of

ReturnT = TypeVar("ReturnT")

#: Stands for the payload that the handler itself was given.
_OWN: Any = object()


class Wait:
    """Which tasks a task waits for, and what it runs then; see WaitFor."""

    __slots__ = ("after", "after_rule", "payload", "then")

    def __init__(
        self, after: tuple[str, ...], then: str, payload: tuple[str, bytes, int] | None, after_rule: str
    ) -> None:
        #: The ids of the tasks.
        self.after = after
        #: The name of the handler.
        self.then = then
        #: Its payload as text and as bytes, and its scheduler.v1.PayloadForm; None: that of the handler that waits.
        self.payload = payload
        #: Empty: all completed.
        self.after_rule = after_rule

    def __repr__(self) -> str:
        return f"<Wait tasks={len(self.after)} then={self.then!r}>"


@overload
def WaitFor(
    after: Iterable[str],
    then: Callable[..., Coroutine[Any, Any, ReturnT]],
    payload: object = ...,
    *,
    after_rule: AfterRuleName | None = None,
) -> ReturnT: ...
@overload
def WaitFor(
    after: Iterable[str],
    then: Callable[..., ReturnT],
    payload: object = ...,
    *,
    after_rule: AfterRuleName | None = None,
) -> ReturnT: ...
# It is what the handler says that it returns.
@overload
def WaitFor(
    after: Iterable[str], then: str, payload: object = ..., *, after_rule: AfterRuleName | None = None
) -> ReturnT: ...  # type: ignore[type-var]
def WaitFor(  # noqa: N802 - in handlers it reads as what they return
    after: Iterable[str],
    then: str | Callable[..., Any],
    payload: object = _OWN,
    *,
    after_rule: AfterRuleName | None = None,
) -> Any:
    """Has a handler's task go on with another handler when other tasks have ended. To be returned.

        @handler
        def report(ctx: Context, month: str) -> float:
            parts = ctx.schedule_many(regions(month), handler=total)
            return WaitFor(parts, then=add_up)

    The task waits without a slot. It keeps its id, and is pending meanwhile. Its result is that of the last handler, so
    the annotation of the first one names that, and type checkers take this call for it. `then` has all attempts of the
    task before it, and finds the ids of these tasks in `ctx.after`. It may wait itself. What the handler has scheduled
    is scheduled in the same commit, or not at all. If the task is cancelled, or expires, while it waits, those of these
    tasks are cancelled whose ids begin with its own id and a slash, as those do that it has scheduled.

    With a leader that is too old for it, and on a callback worker, the attempt fails.

    Args:
        after: the ids of the tasks, at most 1,000; none, and `then` runs at once. They are tasks that the leader keeps,
            or that this attempt schedules.
        then: the handler that runs next: its name, or the function that @handler decorated.
        payload: what it works on, as for `ctx.schedule`. Without it: the payload of this handler.
        after_rule: how the tasks must have ended: all completed (the default), all finished in whichever way, or any
            failed. When that can't be any more, the task is cancelled.

    Raises:
        ValueError: a value breaks a limit.
    """
    name = handler_name("then", then)
    if not name:
        raise ValueError("then: it is empty; name the handler that runs next")
    following = None if payload is _OWN else encode_payload(payload)
    return Wait(ids_of("after", after), name, following, after_rule_of(after_rule))
