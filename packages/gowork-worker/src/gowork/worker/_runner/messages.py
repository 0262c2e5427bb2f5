"""What supervisor and runner say to each other besides tasks and reports."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import msgspec

from gowork.worker._core.encryption_options import EncryptionOptions
from gowork.worker._core.handlers import RetryOptions
from gowork.worker._core.selection import Selection


class StopKind(StrEnum):
    """Why a running task is asked to stop."""

    CANCEL = "cancel"
    TIMEOUT = "timeout"
    #: The task is handed back, because of a drain or a lost lease.
    INTERRUPT = "interrupt"


class Setup(msgspec.Struct, frozen=True, tag="setup"):
    """The first frame to a runner: all that it needs to begin."""

    worker: str
    slots: int
    #: How many tasks more than `slots` may run, while as many attempts wait for other tasks.
    spare: int
    selection: Selection
    #: The supervisor's module search path; empty for a runner of another environment, which has its own.
    sys_path: tuple[str, ...]
    #: "text" or "json" when the worker owns its processes' logging; empty leaves it alone.
    log_format: str = ""
    log_level: str = "INFO"
    #: How much the log tells of a failed attempt: "type", "message" or "traceback".
    log_failures: str = "traceback"
    #: Whether the span of an attempt is a child of the span that scheduled its task, instead of a linked trace.
    trace_parent: bool = False
    encryption: EncryptionOptions = EncryptionOptions()
    #: {handler that the worker offers, and that this runner must have: what is said if it has not}. Its plugin may have
    #: been removed since the worker has started.
    offered: dict[str, str] = {}
    #: Whether it describes its handlers. To make schemas takes time, for which an isolated task would wait.
    describes: bool = True


class HandlerNote(msgspec.Struct, frozen=True):
    """One handler, as the supervisor needs to know it."""

    name: str
    isolation: str
    retry: RetryOptions | None
    grace_ms: int
    #: The plugin that it comes from.
    plugin: str = ""
    #: Which payloads it reads: see form_of. Empty when its payload's type has no form.
    form: str = ""
    #: The version of the plugin's distribution; empty when there is none.
    plugin_version: str = ""
    #: What clients are told of it: see describe. Empty when it is not described.
    description: str = ""
    #: The environment that has it; empty for the worker's own. The supervisor alone writes it.
    environment: str = ""
    #: Whether its tasks must not run twice; see HandlerOptions.
    fails_if_lost: bool = False
    #: The schedules that it declares, each a serialized scheduler.v1.Schedule.
    schedules: tuple[bytes, ...] = ()


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The first frame from a runner: it has loaded its plugins and takes tasks."""

    handlers: tuple[HandlerNote, ...]
    default_handler: str
    plugin_errors: tuple[str, ...]
    #: Names of plugins that runners load for handlers of other plugins too: see PluginInfo.is_shared.
    shared: tuple[str, ...] = ()
    #: The version of gowork-worker.
    version: str = ""


class Slots(msgspec.Struct, frozen=True, tag="slots"):
    """To a runner: how many tasks it may run from now on."""

    slots: int


class Recall(msgspec.Struct, frozen=True, tag="recall"):
    """To a runner: hand back the tasks that have not started. The runner answers Returned."""


class Returned(msgspec.Struct, frozen=True, tag="returned"):
    """From a runner: these tasks were not started, and will not be."""

    fences: tuple[int, ...]


class Lease(msgspec.Struct, frozen=True, tag="lease"):
    """To a runner: whether the worker has its lease."""

    valid: bool


class Interrupt(msgspec.Struct, frozen=True, tag="interrupt"):
    """To a runner: stop everything, started or not, and report it as interrupted."""

    reason: str


class Stop(msgspec.Struct, frozen=True, tag="stop"):
    """To a runner: leave the lifespans and end."""


class Stopping(msgspec.Struct, frozen=True, tag="stopping"):
    """From a runner: this task was asked to stop within `grace_ms`. After that its process must be ended."""

    fence: int
    grace_ms: int
    kind: StopKind


class Withheld(msgspec.Struct, frozen=True, tag="withheld"):
    """From a runner, in answer to Slots: how many of its slots are out of use now. Nothing runs in them."""

    slots: int
    #: How many Slots it had heard by then. The supervisor may have told it of more slots since.
    heard: int


class Waiting(msgspec.Struct, frozen=True, tag="waiting"):
    """From a runner: how many of its attempts wait for other tasks. As many more may run."""

    attempts: int


class Worn(msgspec.Struct, frozen=True, tag="worn"):
    """From a runner: it is to be replaced when it has finished its tasks."""

    #: In words.
    reason: str


@dataclass(frozen=True, slots=True)
class Running:
    """One occupied slot of the table that supervisor and runner share (`table`)."""

    fence: int
    #: On the monotonic clock, like the next one.
    started_ns: int
    #: When the runner is ended if the task still runs; 0 means never.
    kill_at_ns: int


class Executed(msgspec.Struct, frozen=True, tag="executed"):
    """From a runner: how long those attempts took that have ended since the last such message."""

    rows: tuple[ExecutedRow, ...]


class Restored(msgspec.Struct, frozen=True, tag="restored"):
    """From a runner: how often it has restored settings that handlers had changed, since the last such message."""

    #: {setting: number}
    counts: dict[str, int]


class ExecutedRow(msgspec.Struct, frozen=True, array_like=True):
    """Attempts of one queue, handler and outcome."""

    queue: str
    handler: str
    status: str
    #: How many attempts fell into each bucket of EXECUTION_BUCKETS, and above the last.
    counts: tuple[int, ...]
    seconds: float
    #: The last traced attempt in each bucket that has one.
    exemplars: tuple[TracedRow, ...] = ()


class TracedRow(msgspec.Struct, frozen=True, array_like=True):
    """One attempt that was traced."""

    bucket: int
    trace_id: str
    seconds: float
    #: When it ended, in seconds since the Unix epoch.
    at: float


#: How many bytes of descriptions of handlers a worker has. Further handlers are not described.
DESCRIPTIONS_BYTES_MAX = 8 << 20

#: The exit code of a runner that has lost descriptors of its own.
DESCRIPTORS_LOST_EXIT = 119

#: The upper bounds of the buckets, in seconds.
EXECUTION_BUCKETS = (0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0, 300.0, 1800.0)

#: What a runner can be told once it is set up.
Control = Slots | Recall | Lease | Interrupt | Stop
ToRunner = Setup | Control
#: What a runner says of its tasks.
OfTasks = Returned | Stopping | Withheld | Waiting | Worn
#: What a runner has counted.
Counted = Executed | Restored
FromRunner = Ready | OfTasks | Counted

encode = msgspec.json.Encoder().encode
decode_to_runner = msgspec.json.Decoder(ToRunner).decode
decode_from_runner = msgspec.json.Decoder(FromRunner).decode
