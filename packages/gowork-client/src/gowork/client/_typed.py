"""Types that tell type checkers which payload a decorated function takes, and what it returns.

A handler takes `()`, `(ctx)`, `(payload)` or `(ctx, payload)`, and is a `def` or an `async def`. Each of these forms
has a protocol here. gowork.worker's Context is known by what it has, because a client does not import gowork.worker.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar

from gowork.base.annotations import result_type
from gowork.base.typed_values import UnreadableType, reader_of
from gowork.client._models import NewTask
from gowork.client.errors import ResultError

if TYPE_CHECKING:
    # Type checkers know this module without its being installed.
    from typing_extensions import TypeVar as TypeVarWithDefault

    #: What the handler of a task returns; Any where it is not known.
    ReturnT_co = TypeVarWithDefault("ReturnT_co", covariant=True, default=Any)
else:
    ReturnT_co = TypeVar("ReturnT_co", covariant=True)

PayloadT = TypeVar("PayloadT")
ReturnT = TypeVar("ReturnT")
_PayloadT_contra = TypeVar("_PayloadT_contra", contravariant=True)
_ReturnT_co = TypeVar("_ReturnT_co", covariant=True)
_InnerT = TypeVar("_InnerT")


class TaskContext(Protocol):
    """What tells the context of a handler from a payload."""

    @property
    def attempt(self) -> int: ...
    @property
    def fence(self) -> int: ...
    @property
    def payload_form(self) -> int: ...


ContextT = TypeVar("ContextT", bound=TaskContext)


class _Later(Generic[_InnerT]):
    """Never made. mypy looks last at an argument whose type has a callable in it.

    So it first learns from the handler which payload it takes, and then reads a dict as that TypedDict, and `[1, 2]` as
    a `list[float]`. Without it the payload alone would decide.
    """

    inner: _InnerT


#: A payload of this type, which the handler decides.
Payload: TypeAlias = PayloadT | _Later[Callable[[PayloadT], None]]


class TakesBoth(Protocol[_PayloadT_contra, _ReturnT_co]):
    """A handler `(ctx, payload)`."""

    def __call__(self, context: Any, payload: _PayloadT_contra, /) -> _ReturnT_co: ...


class TakesBothAsync(Protocol[_PayloadT_contra, _ReturnT_co]):
    """An `async def` handler `(ctx, payload)`."""

    def __call__(self, context: Any, payload: _PayloadT_contra, /) -> Coroutine[Any, Any, _ReturnT_co]: ...


class TakesPayload(Protocol[_PayloadT_contra, _ReturnT_co]):
    """A handler `(payload)`."""

    def __call__(self, payload: _PayloadT_contra, /) -> _ReturnT_co: ...


class TakesPayloadAsync(Protocol[_PayloadT_contra, _ReturnT_co]):
    """An `async def` handler `(payload)`."""

    def __call__(self, payload: _PayloadT_contra, /) -> Coroutine[Any, Any, _ReturnT_co]: ...


class Functions:
    """By which decorated function the results of many tasks are read.

    Args:
        function: that of the tasks that name no handler of their own; None where only a name is known.
    """

    __slots__ = ("_function", "_others")

    def __init__(self, function: Callable[..., Any] | None) -> None:
        self._function = function
        #: {id of a task that is not acknowledged yet and has a handler of its own: its function}
        self._others: dict[str, Callable[..., Any] | None] = {}

    def note(self, id: str, task: NewTask) -> None:
        """Notes the handler of a task that may have its own."""
        if task.handler is not None:
            self._others[id] = task.handler if callable(task.handler) else None

    def of(self, ids: Sequence[str]) -> Iterable[Callable[..., Any] | None]:
        """Returns the functions of tasks that were acknowledged."""
        if not self._others:
            return itertools.repeat(self._function, len(ids))
        return [self._others.pop(id, self._function) for id in ids]


def annotated_result(function: Callable[..., Any]) -> Any:
    """Returns the type to decode a handler's results to; None where it is not annotated, and results are as in JSON.

    Raises:
        ResultError: when the annotation cannot be resolved, or results cannot be read as its type.
    """
    name = getattr(function, "__name__", repr(function))
    try:
        annotation = result_type(function)
        if annotation is inspect.Signature.empty or annotation is Any:
            return None
        reader_of(annotation)
    except UnreadableType as error:
        raise ResultError(f"results of {name} cannot be read as it is annotated: {error}; {_NEXT}") from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ResultError(
            f"what {name} is annotated to return cannot be resolved ({reason}): define or import that type in its "
            f"module at run time, or {_NEXT}"
        ) from error
    return annotation


_NEXT = "call result(Any) for the result as it is in JSON"
