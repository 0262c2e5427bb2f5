"""The rules by which calls are made: always with a deadline, again when no leader took them, and with typed errors.

gRPC's own retry policy stops after five tries, does not know how much time is left, and stays with the address that it
is connected to, also where no leader leads. So the loop is here. It goes over all addresses at once, and then pauses.

A call whose leader went away may have been carried out. It is made again all the same, because every call but RetryTask
is safe to repeat: task ids make scheduling idempotent, and the other calls read, or change nothing when they are made
twice. RetryTask would run a task again that has failed again meanwhile.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import grpc

from gowork.base.channels import split_addresses, through_proxy
from gowork.base.encryption import Encryption
from gowork.base.rotation import Rotation
from gowork.base.tls import Tls, tls_of_caller
from gowork.base.tls_files import TlsFiles
from gowork.client.errors import (
    CallError,
    ClientClosed,
    ClientForked,
    DeadlineExceeded,
    LeaderTooOld,
    LeaderUnreachable,
    error_of,
    was_not_taken,
    words_of,
)
from gowork.proto import limits

#: The address of a leader that was started without options.
ADDRESS_DEFAULT = "127.0.0.1:50052"
#: The environment variable that names another address.
ADDRESS_VARIABLE = "GOWORK_LEADER"
_FIRST_PAUSE_S = 0.05
_PAUSE_S_MAX = 2.0
#: The shortest timeout, because in some places gRPC takes a timeout of 0 to mean none.
_TIMEOUT_S_MIN = 0.001
#: A further try that is shorter could hardly end but by its deadline, and would hide what the last one was told.
_FURTHER_TRY_S_MIN = 0.1
#: What is said of an address where something listens, and ends connections before a call.
_ENDED_AT_ONCE = ("it ended the connection at once", "certificate", "by TLS", "andshake", "does not speak gRPC")
#: The longest timeout: ten years. gRPC takes one that its clock cannot count, such as infinity, for a deadline that
#: has passed.
_TIMEOUT_S_MAX = limits.DURATION_MS_MAX / 1000

SCHEDULE_TASKS = "/scheduler.v1.SchedulerService/ScheduleTasks"


@dataclass(slots=True)
class CallSettings:
    """The settings that all calls of one client share."""

    addresses: Sequence[str]
    #: Which of the addresses is called.
    rotation: Rotation
    #: The deadline of each call, in seconds.
    timeout: float
    #: How long a call is made again while no leader answers, in seconds. It is never made after its deadline.
    patience: float
    #: Encrypts payloads, and decrypts what comes back; None where nothing is encrypted.
    encryption: Encryption | None = None
    #: The certificates with which leaders are called; None: plain text.
    tls: Tls | None = None
    #: Whether the client was closed.
    closed: bool = False
    #: The process that has used the client; None: none has.
    process: int | None = None

    @classmethod
    def of(
        cls,
        address: str | Iterable[str] | None,
        environment: str | None,
        timeout: float,
        patience: float | None,
        encryption: Encryption | None = None,
        tls: TlsFiles | None = None,
    ) -> CallSettings:
        """Makes the settings from a client's arguments. `environment` is the value of ADDRESS_VARIABLE.

        Raises:
            AddressError: when an address is not HOST:PORT, or there are too many.
            CertificateError: when the files can't be used.
            ValueError: when the timeout is not positive.
        """
        if not timeout > 0:
            raise ValueError(f"timeout {timeout} is not a positive number of seconds")
        addresses = tuple(split_addresses((environment or ADDRESS_DEFAULT) if address in (None, "") else address))
        used = tls_of_caller(tls)
        return cls(
            addresses,
            Rotation(addresses, used),
            min(timeout, _TIMEOUT_S_MAX),
            timeout if patience is None else patience,
            encryption,
            used,
        )

    @property
    def address(self) -> str:
        """All addresses, joined by commas."""
        return ",".join(self.addresses)

    def check_open(self) -> None:
        """Checks that the client is open, in the process that has used it. Call it before every call.

        Raises:
            ClientClosed: when the client was closed.
            ClientForked: when this process was forked after the client's first use.
        """
        if self.closed:
            raise ClientClosed(code=grpc.StatusCode.CANCELLED)
        if self.is_forked:
            raise ClientForked(code=grpc.StatusCode.CANCELLED)
        self.process = os.getpid()

    @property
    def is_forked(self) -> bool:
        """Whether another process has used the client, so that this one has copies of its connections."""
        return self.process is not None and self.process != os.getpid()

    def error_of(self, error: grpc.RpcError, address: str) -> CallError:
        """Returns the typed error of a call to this address that failed; ClientClosed when the client was closed."""
        return ClientClosed(code=grpc.StatusCode.CANCELLED) if self.closed else error_of(error, address)

    def explained(self, error: CallError) -> CallError:
        """Returns the error, or another one that also says why TLS keeps the call from a leader. It blocks for seconds.

        Connects to each address where no leader answered although something did.
        """
        if not isinstance(error, LeaderUnreachable) or error.answered:
            return error
        faults = []
        for address, words, answered in self.rotation.said():
            if not answered and any(sign in words for sign in _ENDED_AT_ONCE):
                # Imported only now, because it is seldom needed.
                from gowork.base.handshakes import why_no_handshake

                if why := why_no_handshake(address, self.tls):
                    faults.append((address, why))
        if not faults:
            return error
        words = ", ".join(f"{address} ({why})" for address, why in faults)
        if len(self.addresses) == 1:
            words = faults[0][1]
            message = f"no leader can be called at {self.address}: {words}"
        else:
            message = f"no leader takes the call: {words}"
        told = LeaderUnreachable(message, code=error.code, reason=error.reason, metadata=error.metadata)
        told.address, told.handshake = self.address, words
        return told

    def told_by_each(self) -> str:
        """Returns what each address said last, for people; empty where there is only one."""
        said = self.rotation.said()
        return ", ".join(f"{each.address} ({each.words})" for each in said) if len(said) > 1 else ""

    def unreachable(self, last: LeaderUnreachable) -> LeaderUnreachable:
        """Returns the error of a call that no leader took. `last` is that of its last try."""
        said = self.rotation.said()
        if len(said) == 1:
            return last
        words = self.told_by_each()
        error = LeaderUnreachable(
            f"no leader takes the call: {words}{through_proxy([each.address for each in said])}",
            code=last.code,
            reason=last.reason,
            metadata=last.metadata,
        )
        error.address, error.answered = self.address, any(each.answered for each in said)
        return error


class Tries:
    """The tries of one call: how long each may take, and how long to pause before the next."""

    def __init__(self, settings: CallSettings, *, is_repeatable: bool = True) -> None:
        """Args:
        settings: those of the client.
        is_repeatable: whether the call may be made again when a leader may have carried it out.
        """
        self._settings = settings
        self._is_repeatable = is_repeatable
        #: The addresses that were tried since the last pause.
        self._tried: set[str] = set()
        #: What the last address said at which a leader may come to take the call; None until there was one.
        self._unreachable: LeaderUnreachable | None = None
        #: What the last address said that lacks the method.
        self._lacking: LeaderTooOld | None = None
        self._end = time.monotonic() + settings.timeout
        #: When the last try began, on the monotonic clock.
        self._began_at = 0.0
        #: When all addresses had failed for the first time, on the same clock. The patience counts from then, so that a
        #: call is made again also when its first try took long. It counts anew after a try that took longer than the
        #: patience and that no leader has answered: a load balancer has waited for one that hangs.
        self._failed_at: float | None = None
        self._pause = _FIRST_PAUSE_S

    def left(self) -> float:
        """Returns the timeout of the next try, in seconds.

        Raises:
            ClientClosed: when the client was closed.
        """
        self._settings.check_open()
        self._began_at = time.monotonic()
        return max(self._end - self._began_at, _TIMEOUT_S_MIN)

    def pause_after(self, error: grpc.RpcError, address: str) -> float:
        """Returns how long to wait before the next try, in seconds; 0 when the next address is to be tried.

        Args:
            error: how the try failed.
            address: where the try went.

        Raises:
            CallError: the typed error, when there is no next try.
        """
        rotation = self._settings.rotation
        typed = self._settings.error_of(error, address)
        if isinstance(typed, LeaderUnreachable):
            self._unreachable = typed
        elif isinstance(typed, LeaderTooOld) and len(rotation.addresses) > 1:
            # It may be an address of another kind, such as a callback worker's. Others may have the method.
            self._lacking = typed
        elif not isinstance(typed, DeadlineExceeded):
            raise typed from None
        # An address that let a deadline pass may never answer. The next call goes to another one.
        rotation.failed(address, words_of(error), answered=isinstance(typed, LeaderUnreachable) and typed.answered)
        if isinstance(typed, DeadlineExceeded):
            raise self._too_late(typed) from None
        if not (self._is_repeatable or was_not_taken(error)):
            raise typed from None
        self._tried.add(address)
        if rotation.current not in self._tried:
            if time.monotonic() >= self._end - _FURTHER_TRY_S_MIN:
                raise self._failed() from None
            return 0.0
        if self._lacking is not None and not any(said.answered for said in rotation.said()):
            # No leader said that it can't take the call now, so that waiting for one would hardly help.
            raise self._lacking from None
        pause = self._pause * random.uniform(0.5, 1.0)
        now = time.monotonic()
        has_hung = now - self._began_at > self._settings.patience
        if self._failed_at is None or (has_hung and not (self._unreachable and self._unreachable.answered)):
            self._failed_at = now
        if now + pause >= min(self._end, self._failed_at + self._settings.patience):
            raise self._failed() from None
        self._tried.clear()
        self._pause = min(self._pause * 2, _PAUSE_S_MAX)
        return pause

    def _too_late(self, last: DeadlineExceeded) -> DeadlineExceeded:
        """Returns the error of a call that the deadline ended. It tells why there was more than one try."""
        before = self._unreachable
        if before is None or not before.answered:
            return last
        return DeadlineExceeded(
            f"{last} Before that, {before}", code=last.code, reason=last.reason, metadata=last.metadata
        )

    def _failed(self) -> CallError:
        """Returns the error of the call when there is no time for a further try."""
        if self._unreachable is not None:
            return self._settings.unreachable(self._unreachable)
        assert self._lacking is not None
        return self._lacking
