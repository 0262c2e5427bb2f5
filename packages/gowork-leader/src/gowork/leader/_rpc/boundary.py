"""Turns exceptions into gRPC statuses. Every handler of the leader's services runs inside `refusing`."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any

import grpc

from gowork.leader._access.audit import RECORDER
from gowork.leader._core.commands import Refused
from gowork.leader._engine.asked import RefusedError
from gowork.leader._engine.blocked import NotServingError, NotTakenError
from gowork.leader._engine.watching import SubscriptionsClosed, WatcherBehind
from gowork.leader._replication.journal import LogBlockedError
from gowork.leader.log.protocol import LeadershipLostError, LogError
from gowork.leader.store.protocol import StoreBlockedError, StoreError, StoreFullError
from gowork.proto.status import FieldViolation, Refusal, abort

_log = logging.getLogger(__name__)


def refusal_from(refused: Refused) -> Refusal:
    """Returns a refusal of the core as it is sent."""
    violations = [FieldViolation(field, description) for field, description in refused.violations]
    return Refusal(grpc.StatusCode[refused.code.status], refused.code.reason, refused.message, violations)


def unknown_tasks(ids: list[str]) -> Refusal:
    """Returns the refusal for ids that no task has."""
    more = f" (and {len(ids) - 1} more)" if len(ids) > 1 else ""
    return Refusal(grpc.StatusCode.NOT_FOUND, "TASK_UNKNOWN", f"no task has the id {ids[0]!r}{more}")


@contextlib.asynccontextmanager
async def refusing(context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[None]:
    """Ends the call with the status that stands for the exception that is raised inside.

    Only a defect becomes INTERNAL. Its traceback goes to the log and not to the caller. A call whose caller is gone
    ends as a cancelled one does, because nobody can be told.
    """
    try:
        yield
    except Refusal as refusal:
        await _tell(context, refusal)
    except RefusedError as error:
        await _tell(context, refusal_from(error.refused))
    except NotTakenError as error:
        reason = _reason(error.blocked)
        # Another program's lock passes soon, and clients repeat calls that end with UNAVAILABLE.
        code = grpc.StatusCode.UNAVAILABLE if reason == "STORE_LOCKED" else grpc.StatusCode.RESOURCE_EXHAUSTED
        await _tell(context, Refusal(code, reason, str(error)))
    except (NotServingError, SubscriptionsClosed) as error:
        await _tell(context, Refusal(grpc.StatusCode.UNAVAILABLE, "NOT_SERVING", str(error)))
    except WatcherBehind:
        message = "the watcher did not read fast enough; go on from the last token"
        await _tell(context, Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "WATCHER_BEHIND", message))
    except StoreFullError as error:
        await _tell(context, Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "STORE_FULL", str(error)))
    except LeadershipLostError:
        message = "another leader leads now; what this call asked for may have come about: repeat the call to be sure"
        await _tell(context, Refusal(grpc.StatusCode.UNAVAILABLE, "NOT_LEADING", message))
    except LogError as error:
        await _tell(context, Refusal(grpc.StatusCode.UNAVAILABLE, "LOG_UNAVAILABLE", str(error)))
    except StoreError as error:
        await _tell(context, Refusal(grpc.StatusCode.UNAVAILABLE, "STORE_UNAVAILABLE", str(error)))
    except (grpc.aio.AbortError, grpc.RpcError):
        raise
    except grpc.aio.BaseError:
        raise asyncio.CancelledError from None
    except Exception:  # noqa: BLE001 - a defect must not reach the caller as a traceback
        _log.exception("request failed", extra={"method": getattr(context, "method", lambda: "")()})
        message = "the leader could not handle this request; its log has the reason"
        await _tell(context, Refusal(grpc.StatusCode.INTERNAL, "INTERNAL", message))


async def _tell(context: grpc.aio.ServicerContext[Any, Any], refusal: Refusal) -> None:
    if (record := RECORDER.get()) is not None:
        record(refusal)
    try:
        await abort(context, refusal)
    except grpc.aio.AbortError:
        raise
    except grpc.aio.BaseError:
        # gRPC has no other word for it. It logs what else is raised, with a traceback.
        raise asyncio.CancelledError from None


def _reason(blocked: StoreBlockedError) -> str:
    """Returns the reason that programs read, for what keeps batches from being durable."""
    if isinstance(blocked, LogBlockedError):
        return "LOG_FULL"
    return "STORE_FULL" if isinstance(blocked, StoreFullError) else "STORE_LOCKED"
