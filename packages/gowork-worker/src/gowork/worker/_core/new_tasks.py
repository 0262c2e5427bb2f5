"""What a handler says of a task that it schedules: the client's words, with the same meaning.

A test compares them with the client's. This module imports no protobuf.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal, TypedDict

from gowork.proto import limits
from gowork.worker._core.bounds import duration_ms, names_of, whole, within
from gowork.worker._core.steering import Delay

#: A moment: an aware datetime, or seconds since the Unix epoch.
Moment = datetime | float
PriorityName = Literal["LOW", "MEDIUM", "HIGH", "Low", "Medium", "High", "low", "medium", "high"]
OnLostName = Literal["AGAIN", "FAIL", "again", "fail"]
AfterRuleName = Literal["all_completed", "all_finished", "any_failed"]
#: {option: the option that may be given instead}
_INSTEAD = {
    "run_at": "delay",
    "delay": "run_at",
    "expires_at": "expires_in",
    "expires_in": "expires_at",
    "retry": "max_attempts",
    "max_attempts": "retry",
}


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How many attempts a task has that fails or times out, and how long it waits between them.

    The n-th retry waits `initial_delay * factor ** (n - 1)` seconds, at most `max_delay`, spread by `jitter`.
    """

    #: The number of attempts, the first included: 1 to 1,000.
    max_attempts: int = 1
    initial_delay: Delay = 1.0
    #: 1 to 100.
    factor: float = 2.0
    max_delay: Delay = 300.0
    #: The share of the delay that is random, 0 to 1.
    jitter: float = 0.0
    #: Names of exception types after which the task is not tried again.
    no_retry: tuple[str, ...] = ()


class TaskOptions(TypedDict, total=False):
    """How to run a task that a handler schedules. An option that is None, or is not given, is not set."""

    #: The handler's name, or the function that @handler decorated; empty for the worker's default handler.
    handler: str | Callable[..., Any] | None
    #: HIGH runs before MEDIUM, and MEDIUM before LOW, which is the default.
    priority: PriorityName | None
    #: The name of the queue; the default is "default".
    queue: str | None
    #: At most 64, to find the task by.
    labels: Mapping[str, str] | None
    #: The labels that a worker must have to run the task.
    selector: Mapping[str, str] | None
    #: The time before which the task is not started.
    run_at: Moment | None
    #: In place of run_at: how long after this task's completion it may be started, in seconds.
    delay: Delay | None
    #: How long one attempt may run, in seconds. Without it the handler's own limit holds, if it has one.
    time_limit: Delay | None
    #: The time after which the task is not started any more.
    expires_at: Moment | None
    #: In place of expires_at: for how long after this task's completion it may be started, in seconds.
    expires_in: Delay | None
    #: A policy, or a number of attempts. Without it the handler's policy holds; if it has none, there is one attempt.
    retry: RetryPolicy | int | None
    #: The same as a number of attempts for `retry`; 0 for the handler's policy.
    max_attempts: int | None
    #: The queue's limit for each key counts tasks with the same key.
    concurrency_key: str | None
    #: The versions of the handler's plugin that may run the task, as specifiers of PEP 440: ">=1.2,<2".
    plugin_version: str | None
    #: While another task with this key is pending or running, the task is not scheduled; the key of the task that
    #: schedules it is free for it. 1 to 256 bytes, printable. Keys are those of the whole cluster. With a leader that
    #: is too old for it, the attempt fails.
    unique: str | None
    #: With unique: for how long after its submit the task has the key at least, in seconds, even if it ends before.
    unique_for: Delay | None
    #: FAIL is for what must never run twice; without it the handler's own setting holds, or else AGAIN.
    on_lost: OnLostName | None
    #: The ids of the tasks after which it runs, at most 1,000: tasks that the leader keeps, such as the one that
    #: schedules it, or others of the same attempt. With a leader that is too old for it, the attempt fails.
    after: Iterable[str] | None
    #: How those, and the children of a group, must have ended: all completed (the default), all finished in whichever
    #: way, or any failed. When that can't be any more, the task is cancelled.
    after_rule: AfterRuleName | None
    #: Makes the task a group, which runs after its children: how many there are, or True for a group that is open until
    #: a client seals it. Its children are the tasks whose ids are its own, a slash, and one part more, such as those
    #: that the same attempt schedules after it. With a leader that is too old for it, the attempt fails.
    group: int | None


@dataclass(frozen=True, slots=True)
class NewTask:
    """A task for `ctx.schedule_many` with options of its own, which TaskOptions describes.

    An option that is None is taken from the options of the call.
    """

    payload: Any = ""
    id: str | None = None
    handler: str | Callable[..., Any] | None = None
    priority: PriorityName | None = None
    queue: str | None = None
    labels: Mapping[str, str] | None = None
    selector: Mapping[str, str] | None = None
    run_at: Moment | None = None
    delay: Delay | None = None
    time_limit: Delay | None = None
    expires_at: Moment | None = None
    retry: RetryPolicy | int | None = None
    concurrency_key: str | None = None
    expires_in: Delay | None = None
    plugin_version: str | None = None
    unique: str | None = None
    unique_for: Delay | None = None
    on_lost: OnLostName | None = None
    after: Iterable[str] | None = None
    after_rule: AfterRuleName | None = None
    group: int | None = None


#: The options of a NewTask, and those of a call.
_OWN = tuple(field.name for field in fields(NewTask) if field.name not in ("payload", "id"))
_KNOWN = frozenset(TaskOptions.__annotations__)


@dataclass(frozen=True, slots=True)
class FollowUp:
    """One task to be scheduled; see scheduler.v1.Task."""

    id: str
    handler: str
    payload: str
    data: bytes
    #: scheduler.v1.PayloadForm.
    payload_form: int
    queue: str
    priority: Literal["low", "medium", "high"] | None
    labels: Mapping[str, str]
    selector: Mapping[str, str]
    #: In ms since the epoch. With a delay: by this machine's clock, for leaders that do not know delay_ms. 0: at once.
    run_at_ms: int
    delay_ms: int
    time_limit_ms: int
    max_attempts: int
    plugin_version: str = ""
    #: As run_at_ms and delay_ms; 0: it does not expire.
    expires_at_ms: int = 0
    expires_in_ms: int = 0
    concurrency_key: str = ""
    #: "again", "fail", or empty for what the handler says.
    on_lost: str = ""
    unique_key: str = ""
    unique_for_ms: int = 0
    after: tuple[str, ...] = ()
    #: "all_completed", "all_finished", "any_failed", or empty for the first.
    after_rule: str = ""
    #: How many children it has; None: it is no group; True: it is an open one.
    group: int | None = None
    #: The whole policy; None where there is none, or only a number of attempts.
    retry: RetryPolicy | None = None


def check_options(options: Mapping[str, Any]) -> None:
    """Checks that there are such options.

    Raises:
        TypeError: when there is none of that name.
    """
    for name in options:
        if name not in _KNOWN:
            raise TypeError(f"there is no option {name!r}; the options are id, {', '.join(sorted(_KNOWN))}")


def is_new_task(item: object) -> bool:
    """Whether a payload is a NewTask, here or of gowork.client: nobody wants one to be sent as JSON."""
    kind = type(item)
    return kind is NewTask or (kind.__name__ == "NewTask" and kind.__module__.startswith("gowork.client."))


def options_of(item: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the options of a NewTask, over those of its call."""
    own = {name: value for name in _OWN if (value := getattr(item, name, None)) is not None}
    return {name: value for name, value in options.items() if _INSTEAD.get(name) not in own} | own


def checked(options: Mapping[str, Any], now_ms: int) -> dict[str, Any]:
    """Returns the fields of a FollowUp that follow from options.

    Args:
        options: see TaskOptions.
        now_ms: the time of this machine, in milliseconds since the epoch.

    Raises:
        ValueError: when a value breaks a limit.
    """
    given = {name: value for name, value in options.items() if value is not None}
    for name, other in (("run_at", "delay"), ("expires_at", "expires_in"), ("retry", "max_attempts")):
        if given.get(name) is not None and given.get(other):
            raise ValueError(f"{name}: give {name} or {other}, not both")
    name = handler_name("handler", given.get("handler", ""))
    run_at_ms, expires_at_ms = (moment_ms(field, given.get(field, 0)) for field in ("run_at", "expires_at"))
    delay_ms, expires_in_ms, time_limit_ms, unique_for_ms = (
        duration_ms(field, given.get(field, 0), limits.DURATION_MS_MAX)
        for field in ("delay", "expires_in", "time_limit", "unique_for")
    )
    retry = given.get("retry", given.get("max_attempts", 0))
    policy = None if isinstance(retry, int | float) else _policy(retry)
    attempts = policy.max_attempts if policy is not None else whole("max_attempts", retry, 0, limits.ATTEMPTS_MAX)
    for field, text in (
        ("queue", given.get("queue", "")),
        ("concurrency_key", given.get("concurrency_key", "")),
    ):
        _check_name(field, text)
    for field in ("labels", "selector"):
        _check_labels(field, given.get(field))
    _check_range(given.get("plugin_version", ""))
    _check_key(given.get("unique"), unique_for_ms)
    after = ids_of("after", given.get("after", ()))
    after_rule = after_rule_of(given.get("after_rule"))
    group = given.get("group")
    if group is False:
        group = None
    elif group is not None and group is not True:
        group = whole("group", group, 0, limits.CHILDREN_MAX)
    if after_rule and not after and group is None:
        raise ValueError("after_rule: it is set without after; give the ids of the tasks after which it runs, too")
    return {
        "handler": name,
        "queue": given.get("queue", ""),
        "priority": word("priority", given.get("priority"), ("low", "medium", "high")) or None,
        "labels": dict(given.get("labels") or {}),
        "selector": dict(given.get("selector") or {}),
        "run_at_ms": now_ms + delay_ms if delay_ms else run_at_ms,
        "delay_ms": delay_ms,
        "time_limit_ms": time_limit_ms,
        "max_attempts": attempts,
        "plugin_version": given.get("plugin_version", ""),
        "expires_at_ms": now_ms + expires_in_ms if expires_in_ms else expires_at_ms,
        "expires_in_ms": expires_in_ms,
        "concurrency_key": given.get("concurrency_key", ""),
        "on_lost": word("on_lost", given.get("on_lost"), ("again", "fail")),
        "unique_key": given.get("unique", ""),
        "unique_for_ms": unique_for_ms,
        "after": after,
        "after_rule": after_rule,
        "group": group,
        "retry": policy,
    }


def handler_name(field: str, handler: Any) -> str:
    """Returns the name of a handler that is given by it, or as a function.

    Raises:
        ValueError: when it is neither, or the name breaks a limit.
    """
    name = handler
    if not isinstance(name, str):
        name = getattr(getattr(handler, "__gowork_handler__", None), "name", None)
        if not isinstance(name, str):
            raise ValueError(f"{field}: {handler!r:.200} is neither a name nor a function decorated with @handler")
    _check_name(field, name)
    return name


def _policy(retry: Any) -> RetryPolicy:
    """Returns a checked policy. One of gowork.client has the same attributes."""
    wanted = [field.name for field in fields(RetryPolicy)]
    if not all(hasattr(retry, name) for name in wanted):
        raise ValueError(f"retry: {retry!r:.200} is neither a RetryPolicy nor a number of attempts")
    names: Iterable[Any] = retry.no_retry
    policy = RetryPolicy(
        whole("retry.max_attempts", retry.max_attempts, 1, limits.ATTEMPTS_MAX),
        retry.initial_delay,
        float(within("retry.factor", retry.factor, 1, limits.RETRY_FACTOR_MAX)),
        retry.max_delay,
        float(within("retry.jitter", retry.jitter, 0, 1)),
        names_of(names),
    )
    whole("the number of retry.no_retry names", len(policy.no_retry), 0, limits.NO_RETRY_NAMES_MAX)
    for each in policy.no_retry:
        _check_name("retry.no_retry", each)
    for field in ("initial_delay", "max_delay"):
        duration_ms(f"retry.{field}", getattr(policy, field), limits.RETRY_DELAY_MS_MAX)
    return policy


def word(field: str, given: object, words: tuple[str, ...]) -> Any:
    """Returns one of these words, whose case does not matter; empty for None.

    Raises:
        ValueError: when it is none of them.
    """
    if given is None:
        return ""
    if not isinstance(given, str) or given.lower() not in words:
        raise ValueError(f"{field}: {given!r:.200} is not {', '.join(map(repr, words[:-1]))} or {words[-1]!r}")
    return str(given.lower())


def after_rule_of(given: object) -> str:
    """Returns the rule by which a task comes after others; empty: the default.

    Raises:
        ValueError: when there is no such rule.
    """
    return str(word("after_rule", given, ("all_completed", "all_finished", "any_failed")))


def moment_ms(field: str, moment: Any) -> int:
    """Returns a moment in milliseconds since the epoch.

    Raises:
        ValueError: when it is none, or has no time zone.
    """
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise ValueError(f"{field}: {moment} has no time zone; use datetime.now(timezone.utc) or .astimezone()")
        moment = moment.timestamp()
    try:
        fits = bool(0 <= moment <= limits.TIME_MS_MAX / 1000)
    except TypeError:
        fits = False
    if not fits:
        raise ValueError(f"{field}: {moment!r:.200} is neither a datetime nor a time in seconds since 1970, up to 9999")
    return round(float(moment) * 1000)


def _check_name(field: str, name: object) -> None:
    if not isinstance(name, str):
        raise ValueError(f"{field}: {name!r:.200} is not text")
    if name and (not name.isprintable() or len(name.encode(errors="replace")) > limits.NAME_BYTES_MAX):
        raise ValueError(f"{field}: {name!r:.200} is not at most {limits.NAME_BYTES_MAX} printable bytes")


def _check_key(unique: object, unique_for_ms: int) -> None:
    if unique is None:
        if unique_for_ms:
            raise ValueError("unique_for: it is set without unique; give the key that stays taken, too")
        return
    if unique == "":
        raise ValueError("unique: is empty; 1 to 256 bytes are needed, or None for no key")
    if not isinstance(unique, str) or not _is_text(unique, 1, limits.UNIQUE_KEY_BYTES_MAX) or not unique.isprintable():
        raise ValueError(
            f"unique: {unique!r:.200} is not text of at most {limits.UNIQUE_KEY_BYTES_MAX} printable bytes"
        )


def ids_of(field: str, ids: Any) -> tuple[str, ...]:
    """Returns these ids, each once.

    Raises:
        ValueError: when they are no ids, or too many.
    """
    if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
        raise ValueError(f"{field}: {ids!r:.200} is no list of ids")
    # A handle of gowork.client has the id of its task.
    found: tuple[Any, ...] = tuple(dict.fromkeys(getattr(each, "id", each) for each in ids))
    if len(found) > limits.AFTER_MAX:
        raise ValueError(f"{field}: at most {limits.AFTER_MAX} ids are taken, not {len(found)}")
    for each in found:
        if not isinstance(each, str) or not _is_text(each, 1, limits.ID_BYTES_MAX) or not each.isprintable():
            raise ValueError(f"{field}: {each!r:.200} is not text of 1 to {limits.ID_BYTES_MAX} printable bytes")
    return found


def _check_range(wanted: object) -> None:
    if not wanted:
        return
    # packaging is imported by those who use it.
    from gowork.base.version_ranges import fault_of

    if not isinstance(wanted, str):
        raise ValueError(f"plugin_version: {wanted!r:.200} is not text")
    if fault := fault_of(wanted):
        raise ValueError(f"plugin_version: {fault}")


def _check_labels(field: str, labels: Any) -> None:
    if not labels:
        return
    if not isinstance(labels, Mapping):
        raise ValueError(f"{field}: {labels!r:.200} is no mapping of text to text")
    if len(labels) > limits.LABELS_MAX:
        raise ValueError(f"{field}: at most {limits.LABELS_MAX} are taken, not {len(labels)}")
    for key, value in labels.items():
        if not _is_text(key, 1, limits.LABEL_KEY_BYTES_MAX):
            raise ValueError(f"{field}: the key {key!r:.200} is not text of 1 to {limits.LABEL_KEY_BYTES_MAX} bytes")
        if not _is_text(value, 0, limits.LABEL_VALUE_BYTES_MAX):
            limit = limits.LABEL_VALUE_BYTES_MAX
            raise ValueError(f"{field}: the value of {key!r} is not text of at most {limit} bytes")


def _is_text(value: object, low: int, high: int) -> bool:
    return isinstance(value, str) and low <= len(value.encode(errors="replace")) <= high
