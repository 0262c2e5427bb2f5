"""The rules by which calls are made: always with a deadline, again when no leader took them, and with typed errors.

gRPC's own retry policy stops after five tries and does not know how much time is left, so that the loop is here. Every
call is safe to repeat: task ids make scheduling idempotent, and the other calls read, or change nothing when they are
made twice.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

import grpc

from gowork.base.channels import split_addresses
from gowork.client.errors import CallError, ClientClosed, LeaderUnreachable, error_of
from gowork.proto import limits

#: The address of a leader that was started without options.
ADDRESS_DEFAULT = "127.0.0.1:50052"
#: The environment variable that names another address.
ADDRESS_VARIABLE = "GOWORK_LEADER"
_FIRST_PAUSE_S = 0.05
_PAUSE_S_MAX = 2.0
#: The shortest timeout, because in some places gRPC takes a timeout of 0 to mean none.
_TIMEOUT_S_MIN = 0.001
#: The longest timeout: ten years. gRPC takes one that its clock cannot count, such as infinity, for a deadline that
#: has passed.
_TIMEOUT_S_MAX = limits.DURATION_MS_MAX / 1000

SCHEDULE_TASKS = "/scheduler.v1.SchedulerService/ScheduleTasks"


@dataclass(slots=True)
class CallSettings:
    """The settings that all calls of one client share."""

    addresses: Sequence[str]
    #: The deadline of each call, in seconds.
    timeout: float
    #: How long a call is made again while no leader answers, in seconds. It is never made after its deadline.
    patience: float
    #: Whether the client was closed.
    closed: bool = False

    @classmethod
    def of(cls, address: str | None, environment: str | None, timeout: float, patience: float | None) -> CallSettings:
        """Makes the settings from a client's arguments. `environment` is the value of ADDRESS_VARIABLE.

        Raises:
            AddressError: when an address is not HOST:PORT.
            ValueError: when the timeout is not positive.
        """
        if not timeout > 0:
            raise ValueError(f"timeout {timeout} is not a positive number of seconds")
        return cls(
            tuple(split_addresses(address or environment or ADDRESS_DEFAULT)),
            min(timeout, _TIMEOUT_S_MAX),
            timeout if patience is None else patience,
        )

    @property
    def address(self) -> str:
        """All addresses, joined by commas."""
        return ",".join(self.addresses)

    def check_open(self) -> None:
        """Checks that the client is open. Call it before every call.

        Raises:
            ClientClosed: when the client was closed.
        """
        if self.closed:
            raise ClientClosed(code=grpc.StatusCode.CANCELLED)

    def error_of(self, error: grpc.RpcError) -> CallError:
        """Returns the typed error of a failed call; ClientClosed when the client was closed meanwhile."""
        return ClientClosed(code=grpc.StatusCode.CANCELLED) if self.closed else error_of(error, self.address)


class Tries:
    """The tries of one call: how long each may take, and how long to pause before the next."""

    def __init__(self, settings: CallSettings) -> None:
        self._settings = settings
        self._began = time.monotonic()
        self._end = self._began + settings.timeout
        self._pause = _FIRST_PAUSE_S

    def left(self) -> float:
        """Returns the timeout of the next try, in seconds.

        Raises:
            ClientClosed: when the client was closed.
        """
        self._settings.check_open()
        return max(self._end - time.monotonic(), _TIMEOUT_S_MIN)

    def pause_after(self, error: grpc.RpcError) -> float:
        """Returns how long to wait before the next try, in seconds.

        Raises:
            CallError: the typed error, when there is no next try.
        """
        typed = self._settings.error_of(error)
        pause = self._pause * random.uniform(0.5, 1.0)
        give_up = min(self._end, self._began + self._settings.patience)
        if not isinstance(typed, LeaderUnreachable) or time.monotonic() + pause >= give_up:
            raise typed from None
        self._pause = min(self._pause * 2, _PAUSE_S_MAX)
        return pause
