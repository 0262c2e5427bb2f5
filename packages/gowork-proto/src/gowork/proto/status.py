"""Writes a server's refusals as google.rpc.Status, and reads them back for a client.

Every refusal carries an ErrorInfo (domain `gowork`, a constant reason, metadata). For bad input it also carries a
BadRequest with a violation for each field at fault (AIP-193).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, cast

import grpc
from google.protobuf import any_pb2
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2

#: The ErrorInfo.domain of gowork's refusals.
DOMAIN = "gowork"
_DETAILS_KEY = "grpc-status-details-bin"
#: gRPC limits metadata, trailers included, to 8 KiB. Beyond that, callers see an error of gRPC's own instead. So only
#: the first violations are sent. The message is sent twice: once with up to 3 bytes for each of its bytes, and once in
#: the details, which take 4 bytes for each 3. Together that is at most 3,000 + 4/3 * (1,000 + 2,300 + ErrorInfo) bytes.
_VIOLATIONS_MAX = 20
_VIOLATIONS_BYTES_MAX = 2_300
_DESCRIPTION_BYTES_MAX = 200
_MESSAGE_BYTES_MAX = 1_000
#: What gRPC calls it when a proxy resets the stream of a call, as it does when its own connection to the server ends.
_CUT_OFF = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One field at fault."""

    #: The path of the field in the request, as in `tasks[3].id`.
    field: str
    #: What is wrong with it, and the limit that it breaks.
    description: str


# It is not frozen, because context managers set __traceback__ on exceptions. Exceptions are compared by identity.
@dataclass(slots=True, eq=False)
class Refusal(Exception):
    """Why a server refuses a request. Servicers raise it, `abort` sends it, and `refusal_of` reads it back."""

    code: grpc.StatusCode
    #: A constant in UPPER_SNAKE_CASE, for programs.
    reason: str
    #: What is wrong and what to do, for people.
    message: str
    violations: Sequence[FieldViolation] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.message

    @property
    def is_said(self) -> bool:
        """Whether one of gowork's servers sent the refusal. Its refusals have a reason; gRPC's own errors have none."""
        return self.reason != self.code.name


def invalid(violations: Sequence[FieldViolation]) -> Refusal:
    """Makes a refusal INVALID_ARGUMENT of at least one violation. The message names the first and counts the rest."""
    first = violations[0]
    more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
    return Refusal(
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_ARGUMENT",
        f"{first.field}: {first.description}{more}",
        tuple(violations),
    )


def status_of(refusal: Refusal) -> status_pb2.Status:
    """Returns the refusal as google.rpc.Status."""
    details = [error_details_pb2.ErrorInfo(reason=refusal.reason, domain=DOMAIN, metadata=dict(refusal.metadata))]
    packed = [_pack(detail) for detail in details]
    if refusal.violations:
        packed.append(_pack(_bad_request(refusal.violations)))
    message = _cut(refusal.message, _MESSAGE_BYTES_MAX)
    return status_pb2.Status(code=code_pb2.Code.Value(refusal.code.name), message=message, details=packed)


def _bad_request(violations: Sequence[FieldViolation]) -> error_details_pb2.BadRequest:
    bad_request = error_details_pb2.BadRequest()
    for violation in violations[:_VIOLATIONS_MAX]:
        bad_request.field_violations.add(
            field=_cut(violation.field, _DESCRIPTION_BYTES_MAX),
            description=_cut(violation.description, _DESCRIPTION_BYTES_MAX),
        )
        if bad_request.ByteSize() > _VIOLATIONS_BYTES_MAX:
            del bad_request.field_violations[-1]
            break
    return bad_request


def _cut(text: str, bytes_max: int) -> str:
    return text.encode()[:bytes_max].decode(errors="ignore")


async def abort(context: grpc.aio.ServicerContext[Any, Any], refusal: Refusal) -> NoReturn:
    """Ends the call with this refusal."""
    status = status_of(refusal)
    await context.abort(refusal.code, status.message, ((_DETAILS_KEY, status.SerializeToString()),))
    raise AssertionError("abort always raises")


def refusal_of(error: grpc.RpcError) -> Refusal:
    """Reads the refusal from the error of a failed call, blocking or asyncio. It never raises.

    For an error without details, or with details that are not gowork's, the Refusal has none. A call that was cut off
    on its way is UNAVAILABLE.
    """
    code = error.code()
    message = error.details() or ""
    if code in _CUT_OFF and "RST_STREAM" in message:
        code = grpc.StatusCode.UNAVAILABLE
    trailers = error.trailing_metadata() or ()
    reason, metadata, violations = code.name, {}, []
    for key, value in cast("Iterable[tuple[str, str | bytes]]", trailers):
        if key != _DETAILS_KEY or not isinstance(value, bytes):
            continue
        try:
            for packed in status_pb2.Status.FromString(value).details:
                info, bad_request = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
                if packed.Unpack(info):
                    reason, metadata = info.reason, dict(info.metadata)
                elif packed.Unpack(bad_request):
                    violations = [FieldViolation(v.field, v.description) for v in bad_request.field_violations]
        except DecodeError:
            # A proxy between here and the server put it there. The code and the message still say what happened.
            continue
    return Refusal(code, reason, message, tuple(violations), metadata)


def _pack(message: error_details_pb2.ErrorInfo | error_details_pb2.BadRequest) -> any_pb2.Any:
    packed = any_pb2.Any()
    packed.Pack(message)
    return packed
