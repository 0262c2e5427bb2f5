"""The handle of a task that an AsyncClient has scheduled.

The asyncio form of this module is written by hand; the blocking form is generated from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

from gowork.client._handles import Handle
from gowork.client._models import TaskInfo
from gowork.client._typed import ReturnT_co

if TYPE_CHECKING:
    from typing_extensions import TypeForm

    from gowork.client._async.client import AsyncClient

ResultT = TypeVar("ResultT")


class AsyncTaskHandle(Handle, Generic[ReturnT_co]):
    """A task that was scheduled by an AsyncClient. Its type parameter is what the handler returns, where known."""

    __slots__ = ()

    _client: AsyncClient

    async def wait(self, timeout: float | None = None) -> TaskInfo:
        """Waits until the task has finished, and returns it, whatever its status.

        Args:
            timeout: how long to wait, in seconds; None for as long as it takes.

        Raises:
            TaskNotFinished: when the timeout ran out.
            CallError: when the leader refused, or could not be reached.
        """
        if self.task is not None:
            return self.task
        (task,) = await self._client.wait((self,), timeout)
        return task

    @overload
    async def result(self, type: None = None, *, timeout: float | None = None) -> ReturnT_co: ...
    @overload
    async def result(self, type: TypeForm[ResultT], *, timeout: float | None = None) -> ResultT: ...
    async def result(self, type: Any = None, *, timeout: float | None = None) -> Any:
        """Waits until the task has finished, and returns what its handler returned.

        Args:
            type: the type to decode the result to; see TaskInfo.value. None for the type that the handler is annotated
                to return, where the task was scheduled with the decorated function. Any for the result as it is in
                JSON.
            timeout: as for wait.

        Raises:
            TaskFailed, TaskCancelled: when the task did not complete.
            ResultError: when the result does not fit the type, or the annotation cannot be resolved.
            TaskNotFinished, CallError: as for wait.
        """
        if self._task is None:
            await self._client.wait((self,), timeout)
        return self._value(type)

    async def cancel(self) -> None:
        """Cancels the task, as AsyncClient.cancel does."""
        await self._client.cancel(self.id)

    async def get(self) -> TaskInfo:
        """Returns the task with all its fields, as AsyncClient.get does."""
        return await self._client.get(self.id)
