"""The errors of the client.

    GoworkError
    ├── CallError                    the leader refused or failed a call
    │   ├── InvalidArgument          (also ValueError) a field is at fault: .violations
    │   ├── NotFound                 (also LookupError)
    │   ├── AlreadyExists            the id is taken by another task
    │   ├── FailedPrecondition       the task's state does not allow it
    │   ├── ResourceExhausted        a limit of the leader, or a watcher that reads too slowly
    │   ├── OutOfRange               a watch's token is too old: list anew
    │   ├── PermissionDenied
    │   ├── LeaderTooOld             the leader lacks a method or a field: .lacks, .version
    │   ├── ClientClosed             (also ValueError) the client was closed
    │   ├── ClientForked             (also RuntimeError) the client was used before this process was forked
    │   ├── WrongEventLoop           (also RuntimeError) the client belongs to another event loop
    │   ├── DeadlineExceeded         (also TimeoutError)
    │   └── LeaderUnreachable        (also ConnectionError) no leader serves: .address, .answered
    ├── TaskError                    a task ended otherwise than completed: .task
    │   ├── TaskFailed               .failure
    │   └── TaskCancelled
    ├── TaskNotFinished              (also TimeoutError) the caller's timeout for a wait ran out: .ids
    └── ResultError                  (also ValueError) a result does not fit the type that was asked for

An error without a message of its own has its class's docstring as its message.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import grpc

from gowork.base.channels import lookup_failure, unanswered, why_unanswered
from gowork.proto.status import FieldViolation, Refusal, refusal_of

if TYPE_CHECKING:
    from gowork.client._models import Failure, TaskInfo

__all__ = [
    "AlreadyExists",
    "CallError",
    "ClientClosed",
    "ClientForked",
    "DeadlineExceeded",
    "FailedPrecondition",
    "FieldViolation",
    "GoworkError",
    "InvalidArgument",
    "LeaderTooOld",
    "LeaderUnreachable",
    "NotFound",
    "OutOfRange",
    "PermissionDenied",
    "ResourceExhausted",
    "ResultError",
    "TaskCancelled",
    "TaskError",
    "TaskFailed",
    "TaskNotFinished",
    "WrongEventLoop",
]


class GoworkError(Exception):
    """Something went wrong in gowork."""

    def __init__(self, message: str = "") -> None:
        super().__init__(message or " ".join((type(self).__doc__ or "").split()))


class CallError(GoworkError):
    """The leader refused or failed the call."""

    def __init__(
        self,
        message: str = "",
        *,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        reason: str = "",
        violations: Sequence[FieldViolation] = (),
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        #: gRPC's status code.
        self.code = code
        #: The constant reason of google.rpc.ErrorInfo, for programs; the name of the code where there is none.
        self.reason = reason or code.name
        #: The fields at fault.
        self.violations = tuple(violations)
        #: The metadata of ErrorInfo.
        self.metadata = dict(metadata or {})


class InvalidArgument(CallError, ValueError):
    """A field of the request is at fault."""

    @classmethod
    def of(cls, field: str, description: str) -> InvalidArgument:
        """Makes the error of a request that is not sent, in the form in which a leader would refuse it."""
        return cls(
            f"{field}: {description}",
            code=grpc.StatusCode.INVALID_ARGUMENT,
            violations=(FieldViolation(field, description),),
        )


class NotFound(CallError, LookupError):
    """The leader knows nothing by this id."""


class AlreadyExists(CallError):
    """The id is taken by another task."""


class FailedPrecondition(CallError):
    """The state of the task, or of the cluster, does not allow this."""


class ResourceExhausted(CallError):
    """A limit of the leader is reached, or the watcher reads too slowly."""


class OutOfRange(CallError):
    """The watch's token is too old; list the tasks anew and watch from there."""


class PermissionDenied(CallError):
    """The leader does not let this caller do that."""


class DeadlineExceeded(CallError, TimeoutError):
    """The call's deadline ran out. The leader may have carried it out; repeating it with the same task id is safe."""


class LeaderUnreachable(CallError, ConnectionError):
    """No leader answered, or a leader ended the call before it accepted it."""

    #: The address or addresses that were tried, as HOST:PORT[,HOST:PORT].
    address: str = ""
    #: Whether a leader answered that it cannot serve now, for example because it stops. False when nothing answered.
    answered: bool = False
    #: Why a name in the address could not be looked up, as in `Domain name not found`; empty when the look-up worked.
    unknown_host: str = ""
    #: Why TLS keeps the call from a leader, as in `its certificate expired at …`; empty where it is not the reason.
    handshake: str = ""


class ClientClosed(CallError, ValueError):
    """The client was closed; make a new one."""


class ClientForked(CallError, RuntimeError):
    """The client was used before this process was forked, and no connection survives a fork. Make a client in each
    process, after the fork.
    """


class WrongEventLoop(CallError, RuntimeError):
    """The client belongs to another event loop, where it was first used. Make a client in each loop that uses one."""


class LeaderTooOld(CallError):
    """The leader is too old for this call: it lacks the method, or would silently drop a field."""

    #: The methods or fields that it lacks, as in `ScheduleTasks` and `Task.delay_ms`.
    lacks: tuple[str, ...] = ()
    #: The version of gowork-leader; empty for the original go-work, and where the version is not known.
    version: str = ""
    #: The address or addresses that were called, as HOST:PORT[,HOST:PORT].
    address: str = ""

    @classmethod
    def without_fields(cls, lacks: Sequence[str], version: str, address: str) -> LeaderTooOld:
        """Makes the error for fields that the leader would drop. `lacks` has their full names."""
        names = tuple(dict.fromkeys(name.split(".v1.")[-1] for name in lacks))
        what = f"does not know {_listed(names)} and would drop {'it' if len(names) == 1 else 'them'}"
        return cls._of(what, names, _called(version), version, address)

    @classmethod
    def without_method(cls, method: str, version: str | None, address: str, told: str = "") -> LeaderTooOld:
        """Makes the error for a method that the leader lacks.

        Args:
            method: its name; empty where it is not known.
            version: the leader's; empty for the original go-work, None where it is not known.
            address: the address or addresses that were called.
            told: what each of several addresses said, for people.
        """
        who = "older than this client" if version is None else _called(version)
        what = f"has no {method}" if method else "lacks a method that this call needs"
        # What answers at an address of another kind, such as a callback worker's, lacks all that the original lacks.
        other = "" if version else f", or give a leader's address{told and f': {told}'}"
        return cls._of(what, (method,) if method else (), who, version or "", address, other)

    @classmethod
    def _of(
        cls, what: str, lacks: tuple[str, ...], who: str, version: str, address: str, other: str = ""
    ) -> LeaderTooOld:
        message = f"the leader at {address} is {who}: it {what}. Upgrade it{other}"
        error = cls(message, code=grpc.StatusCode.UNIMPLEMENTED)
        error.lacks, error.version, error.address = lacks, version, address
        return error


def _called(version: str) -> str:
    return f"gowork-leader {version}" if version else "the original go-work"


def _listed(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


class TaskError(GoworkError):
    """The task did not complete."""

    def __init__(self, task: TaskInfo, message: str = "") -> None:
        super().__init__(message)
        #: The finished task.
        self.task = task

    @property
    def failure(self) -> Failure | None:
        """The failure that the leader recorded; None where there is none."""
        return self.task.failure

    def __reduce__(self) -> tuple[type[TaskError], tuple[TaskInfo, str]]:
        return type(self), (self.task, str(self))


class TaskFailed(TaskError):
    """The task ended with an error."""


class TaskCancelled(TaskError):
    """The task was cancelled."""


class TaskNotFinished(GoworkError, TimeoutError):
    """The timeout ran out before the tasks had finished. The tasks go on."""

    def __init__(self, message: str = "", *, ids: Sequence[str] = ()) -> None:
        super().__init__(message)
        #: The ids of the tasks that had not finished.
        self.ids = tuple(ids)


class ResultError(GoworkError, ValueError):
    """The task's result does not fit the type that was asked for."""


#: The messages of calls that never left this machine.
_NOT_SENT = re.compile(r"^(?:failed to connect to all addresses|errors resolving|DNS resolution failed)")
#: The reasons with which a leader refuses a call before it looks at it.
_NOT_TAKEN = frozenset({"NOT_LEADING", "NOT_SERVING", "NOT_LEADER"})

_BY_CODE: Mapping[grpc.StatusCode, type[CallError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgument,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.FAILED_PRECONDITION: FailedPrecondition,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.OUT_OF_RANGE: OutOfRange,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDenied,
    grpc.StatusCode.UNAUTHENTICATED: PermissionDenied,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.UNAVAILABLE: LeaderUnreachable,
    # When a leader stops, or too many calls arrive at once, gRPC ends calls that the leader has not taken with this
    # code. A caller's own cancel never comes here.
    grpc.StatusCode.CANCELLED: LeaderUnreachable,
}


def error_of(error: grpc.RpcError, address: str) -> CallError:
    """Returns the typed error of a failed call.

    Args:
        error: the error that gRPC raised, blocking or asyncio.
        address: the address that was called, HOST:PORT.
    """
    refusal = refusal_of(error)
    if refusal.code is grpc.StatusCode.UNIMPLEMENTED and refusal.reason in ("", "UNIMPLEMENTED"):
        # gRPC itself answers so for a method that the leader lacks. A leader that has the method gives a reason.
        return LeaderTooOld.without_method("", None, address)
    kind = _BY_CODE.get(refusal.code, CallError)
    message = refusal.message
    if refusal.code is grpc.StatusCode.CANCELLED:
        message = f"the leader at {address} did not take the call: it is stopping, or too many calls arrived at once"
    elif kind is LeaderUnreachable and refusal.is_said:
        message = f"the leader at {address} can't serve now: {message}"
    elif kind is LeaderUnreachable:
        words = unanswered([address])
        message = f"{words}: {message}" if message else words
    elif kind is DeadlineExceeded:
        message = ""
    typed = typed_refusal(kind, refusal, message)
    if isinstance(typed, LeaderUnreachable):
        typed.address = address
        typed.answered = refusal.is_said
        typed.unknown_host = "" if refusal.is_said else lookup_failure(refusal.message)
    return typed


def words_of(error: grpc.RpcError) -> str:
    """Returns what came back from an address where no leader took the call, in a few words."""
    refusal = refusal_of(error)
    if refusal.is_said:
        return refusal.message
    if refusal.code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return "no answer within the deadline"
    if refusal.code is grpc.StatusCode.CANCELLED:
        return "the leader did not take the call"
    if refusal.code is grpc.StatusCode.UNIMPLEMENTED:
        return "it lacks this method: it is no leader's address, or an older leader's"
    return why_unanswered(refusal.message)


def was_not_taken(error: grpc.RpcError) -> bool:
    """Whether it is certain that no leader has carried out the call."""
    refusal = refusal_of(error)
    if refusal.code is grpc.StatusCode.UNIMPLEMENTED:
        return True
    if refusal.code is not grpc.StatusCode.UNAVAILABLE:
        return False
    return refusal.reason in _NOT_TAKEN if refusal.is_said else bool(_NOT_SENT.match(refusal.message))


def typed_refusal(kind: type[CallError], refusal: Refusal, message: str) -> CallError:
    """Makes an error of this type and message from a refusal."""
    return kind(
        message,
        code=refusal.code,
        reason=refusal.reason,
        violations=refusal.violations,
        metadata=refusal.metadata,
    )
