"""What code of a plugin can leave behind in its process: threads, children, descriptors, settings of the process."""

from __future__ import annotations

import contextlib
import locale
import logging
import os
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

#: How many of one kind are named.
_NAMED_MAX = 5
#: How gowork's own threads are called.
_OWN_THREADS = "gowork-"


class _Look(NamedTuple):
    """One kind of things, or of settings."""

    #: What is said of those that are left behind.
    what: str
    #: Returns what there is now: {key: what it is}.
    look: Callable[[], Mapping[Any, object]]
    #: Whether what is gone or has changed is named, and not only what is new.
    is_setting: bool = False
    #: Returns how it is called, from key and value.
    name: Callable[[Any, object], str] = lambda key, value: str(value)


class Surroundings:
    """What there is at one moment."""

    def __init__(self) -> None:
        self._seen = [look.look() for look in _LOOKS]

    def left_until(self, later: Surroundings) -> list[str]:
        """Returns what has been left behind or changed since, each in a few words."""
        left = []
        for look, before, after in zip(_LOOKS, self._seen, later._seen, strict=True):
            if look.is_setting:
                keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
            else:
                keys = [key for key in after if key not in before]
            names = [look.name(key, after.get(key)) for key in keys]
            if names:
                more = f" and {len(names) - _NAMED_MAX} more" if len(names) > _NAMED_MAX else ""
                left.append(f"{look.what}: {', '.join(sorted(names)[:_NAMED_MAX])}{more}")
        return left


def _threads() -> Mapping[Any, object]:
    return {thread.ident: thread.name for thread in threading.enumerate() if not thread.name.startswith(_OWN_THREADS)}


def _children() -> Mapping[Any, object]:
    children: set[str] = set()
    # Elsewhere than on Linux there is no such folder.
    for task in Path("/proc/self/task").glob("*/children"):
        with contextlib.suppress(OSError):
            children |= set(task.read_text(encoding="ascii").split())
    return {pid: f"process {pid}" for pid in children}


def _descriptors() -> Mapping[Any, object]:
    found: dict[str, str] = {}
    for descriptor in os.listdir("/dev/fd"):
        # The one with which the folder was read is closed by now.
        with contextlib.suppress(OSError):
            found[descriptor] = os.readlink(f"/dev/fd/{descriptor}")
    return found


def _signals() -> Mapping[Any, object]:
    return {each: signal.getsignal(each) for each in signal.Signals}


def _umask() -> Mapping[Any, object]:
    mask = os.umask(0o077)
    os.umask(mask)
    return {"umask": f"{mask:03o}"}


def _root_logger() -> Mapping[Any, object]:
    root = logging.getLogger()
    return {"level": f"level {logging.getLevelName(root.level)}", **{id(each): repr(each) for each in root.handlers}}


_LOOKS = (
    _Look("threads go on", _threads),
    _Look("child processes go on", _children),
    _Look("files or sockets stay open", _descriptors),
    _Look("signal handlers are others", _signals, True, lambda key, value: f"{key.name} is {value!r}"),
    _Look("the working directory is another", lambda: {"cwd": os.getcwd()}, True),
    _Look("the umask is another", _umask, True),
    _Look("the locale is another", lambda: {"locale": locale.setlocale(locale.LC_ALL)}, True),
    # Only their names, because values may be secrets.
    _Look("environment variables are others", lambda: dict(os.environ), True, lambda key, value: str(key)),
    _Look("the root logger is another", _root_logger, True),
)
