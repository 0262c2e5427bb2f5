"""The options of a worker."""

from __future__ import annotations

import os
import secrets
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gowork.base.codecs import DEFAULT_CODEC, CodecSetupError, check_setup
from gowork.base.encryption import LABEL
from gowork.proto import limits
from gowork.worker._core.bounds import utf8, whole, within
from gowork.worker._core.encryption_options import EncryptionOptions
from gowork.worker._core.selection import Selection
from gowork.worker.errors import ConfigurationError

#: Seconds that a runner's loop may go without answering before the runner is ended: the default, and its bounds.
BLOCKED_TIMEOUT = 600.0
BLOCKED_TIMEOUT_MIN = 5.0
BLOCKED_TIMEOUT_MAX = 7 * 86400.0
#: Tasks of a worker that wait for others and lend their slots, at most; each runner has an equal share.
LENT_SLOTS_MAX = 1000


def default_name() -> str:
    """The host's name with a random suffix, because two workers on one host must not take each other's place."""
    return f"{socket.gethostname()[:200]}-{secrets.token_hex(3)}"


def default_runners() -> int:
    """One for each processor that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def default_slots() -> int:
    """Four for each processor, because most handlers wait more than they compute."""
    return 4 * default_runners()


#: The most runner processes of one worker.
RUNNERS_MAX = 1000
#: The largest bounds after which a runner is replaced.
RUNNER_TASKS_MAX = 1_000_000_000
RUNNER_MEMORY_MIB_MAX = 1 << 24


#: The most environments besides the worker's own. When the worker starts, a process looks at each.
PLUGIN_ENVS_MAX = 16


@dataclass(frozen=True, slots=True)
class Options:
    """All options, checked."""

    name: str = field(default_factory=default_name)
    #: Where a restarted worker of the same name finds proof that its predecessor's processes have ended. None: it
    #: keeps no proof.
    state_dir: Path | None = None
    #: How many tasks run at once.
    slots: int = field(default_factory=default_slots)
    #: How many runner processes there are. 0 runs handlers in the worker's own process.
    runners: int = field(default_factory=default_runners)
    labels: Mapping[str, str] = field(default_factory=dict)
    #: The queues whose tasks it takes; empty: those of all.
    queues: tuple[str, ...] = ()
    selection: Selection = field(default_factory=Selection)
    #: Paths of environments whose plugins are offered besides those of the worker's own.
    plugin_envs: tuple[str, ...] = ()
    #: Handlers and lifespans of this process, for runners=0.
    functions: tuple[Callable[..., Any], ...] = ()
    #: The form of the runners' logs, "text" or "json". Empty leaves their logging alone.
    log_format: str = ""
    log_level: str = "INFO"
    #: How much the log tells of a failed attempt: "type", "message" or "traceback".
    log_failures: str = "traceback"
    #: Seconds that running tasks have to finish when the worker drains.
    drain_timeout: float = 110.0
    #: Seconds that a runner's loop may go without answering before the runner is ended.
    blocked_timeout: float = BLOCKED_TIMEOUT
    #: A runner is replaced when it has finished this number of tasks, or when its process takes this many MiB of
    #: memory; 0 for no bound.
    runner_tasks_max: int = 0
    runner_memory_max: int = 0
    #: Whether the span of an attempt is a child of the span that scheduled its task, instead of a linked trace.
    trace_parent: bool = False
    #: When unacknowledged reports take more bytes than this, no task is started until they take half of it.
    unacknowledged_bytes_max: int = 64 << 20
    #: How many tasks may lend their slots while they wait for others. 0 where the leader would send no more tasks for
    #: that.
    lent_slots_max: int = LENT_SLOTS_MAX
    encryption: EncryptionOptions = field(default_factory=EncryptionOptions)

    def __post_init__(self) -> None:
        """Checks every option.

        Raises:
            ConfigurationError: when a value is beyond its limits. The text names the option.
        """
        try:
            self._check_texts()
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        if not 1 <= len(self.name.encode()) <= limits.ID_BYTES_MAX or not self.name.isprintable():
            raise ConfigurationError(f"name: {self.name!r:.100} is not 1 to {limits.ID_BYTES_MAX} printable bytes")
        if self.log_failures not in ("type", "message", "traceback"):
            raise ConfigurationError(f'log_failures: "type", "message" or "traceback", not {self.log_failures!r}')
        try:
            whole("slots", self.slots, 1, limits.SLOTS_MAX)
            whole("runners", self.runners, 0, RUNNERS_MAX)
            whole("runner_tasks_max", self.runner_tasks_max, 0, RUNNER_TASKS_MAX)
            whole("runner_memory_max", self.runner_memory_max, 0, RUNNER_MEMORY_MIB_MAX)
            # Written so that NaN is refused too.
            within("drain_timeout", self.drain_timeout, 0, limits.DRAIN_BUDGET_MS_MAX // 1000)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        if not BLOCKED_TIMEOUT_MIN <= self.blocked_timeout <= BLOCKED_TIMEOUT_MAX:
            bounds = f"{BLOCKED_TIMEOUT_MIN:g} to {BLOCKED_TIMEOUT_MAX:g}"
            raise ConfigurationError(f"blocked_timeout: {bounds} seconds, not {self.blocked_timeout:g}")
        check_environments(self.plugin_envs)
        if self.plugin_envs and not self.runners:
            raise ConfigurationError(
                "plugin_envs: they need runners, because a process has the libraries of one environment; "
                "leave out runners=0"
            )
        if self.encryption.is_required and not self.encryption:
            raise ConfigurationError("require_encryption: it needs keys, because no payload could be decrypted")
        if self.encryption:
            try:
                # Without reading them: only runners do that.
                check_setup(self.encryption.codec, self.encryption.keys)
            except CodecSetupError as error:
                raise ConfigurationError(str(error)) from None
            if LABEL in self.labels:
                raise ConfigurationError(f"labels: {LABEL!r} is the label of workers with keys; choose another one")
        labels_max = limits.LABELS_MAX - bool(self.encryption)
        if len(self.labels) > labels_max:
            raise ConfigurationError(f"labels: at most {labels_max}, not {len(self.labels)}")
        for key, value in self.labels.items():
            if not 1 <= len(key.encode()) <= limits.LABEL_KEY_BYTES_MAX:
                raise ConfigurationError(f"label {key!r}: a key has 1 to {limits.LABEL_KEY_BYTES_MAX} bytes")
            if len(value.encode()) > limits.LABEL_VALUE_BYTES_MAX:
                raise ConfigurationError(f"label {key!r}: a value has at most {limits.LABEL_VALUE_BYTES_MAX} bytes")

        if len(self.queues) > limits.WORKER_QUEUES_MAX:
            raise ConfigurationError(f"queues: at most {limits.WORKER_QUEUES_MAX}, not {len(self.queues)}")
        for queue in self.queues:
            if not 1 <= len(queue.encode()) <= limits.NAME_BYTES_MAX or not queue.isprintable():
                raise ConfigurationError(
                    f"queues: {queue!r:.100} is not 1 to {limits.NAME_BYTES_MAX} printable bytes; "
                    "tasks that name no queue are in the queue 'default'"
                )

    @property
    def told_labels(self) -> dict[str, str]:
        """The labels that the leader is told: also the one by which encrypted tasks find workers with their codec."""
        own = {LABEL: self.encryption.codec or DEFAULT_CODEC} if self.encryption else {}
        return {**self.labels, **own}

    def _check_texts(self) -> None:
        """Checks what is sent to the leader or to runners as text.

        Raises:
            ValueError: when one is no text, or not UTF-8.
        """
        utf8("name", self.name)
        for key, value in self.labels.items():
            utf8("a label's key", key)
            utf8(f"label {key!r}", value)
        for queue in self.queues:
            utf8("queues", queue)
        for path in self.plugin_envs:
            utf8("plugin_envs", path)
        utf8("default_handler", self.selection.default_handler)
        for field_name, names in (
            ("plugins", self.selection.plugins),
            ("handlers", self.selection.handlers),
            ("imports", self.selection.imports),
        ):
            for name in names or ():
                utf8(field_name, name)


def check_environments(paths: Sequence[str]) -> None:
    """Checks paths of environments, without looking into these.

    Raises:
        ConfigurationError: when they are too many, or one is no path, the worker's own environment or there twice.
    """
    if len(paths) > PLUGIN_ENVS_MAX:
        raise ConfigurationError(f"plugin_envs: at most {PLUGIN_ENVS_MAX}, not {len(paths)}")
    own = os.path.realpath(sys.prefix)
    known: dict[str, str] = {}
    for path in paths:
        if not path:
            raise ConfigurationError("plugin_envs: a path is empty; name the folder of an environment")
        if "\0" in path:
            raise ConfigurationError(f"plugin_envs: {path!r:.100} is no path")
        folder = os.path.realpath(path)
        if folder == own:
            raise ConfigurationError(
                f"plugin_envs: {path} is the worker's own environment, whose plugins it offers anyway; leave it out"
            )
        other = known.setdefault(folder, path)
        if other is not path:
            raise ConfigurationError(f"plugin_envs: {other} and {path} are the same environment; name it once")
