"""What calls that change many tasks at once return."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final


class Keep(enum.Enum):
    """The type of KEEP."""

    KEEP = "KEEP"


#: Leaves a payload as it is: None is a payload.
KEEP: Final = Keep.KEEP


@dataclass(frozen=True, slots=True)
class CancelledTasks:
    """What cancel_many has done."""

    #: How many pending tasks were cancelled.
    cancelled: int = 0
    #: How many running tasks were asked to stop. Each is cancelled when its worker has stopped it.
    asked: int = 0


@dataclass(frozen=True, slots=True)
class RetriedTasks:
    """What retry_many has done."""

    #: How many tasks went back into their queues.
    retried: int = 0
    #: How many were left alone, because they have expired or another task has their unique key.
    left: int = 0
