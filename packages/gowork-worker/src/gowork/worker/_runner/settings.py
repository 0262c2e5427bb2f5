"""The settings that all handlers of a runner share, because they belong to the process: how each is read and restored.

Reading is cheap, because it happens for each batch of reports. All functions that are used here are held from before
the plugins are imported, so that a handler that replaces them changes nothing here.
"""

from __future__ import annotations

import _locale as raw_locale
import _signal as raw_signal  # type: ignore[import-not-found]
import asyncio
import gc
import json
import locale
import logging
import os
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter
from types import FunctionType
from typing import Any

from gowork.worker._runner.settings_of_output import StandardDescriptors, Streams
from gowork.worker._runner.upkeep import Keeper

_getcwd, _chdir, _umask = os.getcwd, os.chdir, os.umask
# Not the function of `locale`, which also takes names in parts.
_setlocale = raw_locale.setlocale
_tzset = time.tzset
_signal, _getitimer, _setitimer = signal.signal, signal.getitimer, signal.setitimer
#: Those that mean the same everywhere. Nobody can set the first two, and real-time signals are rarely used.
_SIGNALS = tuple(
    number
    for number in sorted(signal.valid_signals())
    if number not in (signal.SIGKILL, signal.SIGSTOP) and number < getattr(signal, "SIGRTMIN", 64)
)


class Setting:
    """One setting, whose value is a whole and is compared by `==`."""

    def __init__(self, name: str, read: Callable[[], Any], write: Callable[[Any], Any]) -> None:
        """Args:
        name: how logs and metrics call it.
        read: returns its value, which is never changed in place.
        write: sets it to such a value.
        """
        self.name = name
        self.read = read
        self._write = write
        self._kept = read()

    def is_kept(self) -> bool:
        """Whether it is what it is to be."""
        return bool(self.read() == self._kept)

    def restore(self) -> bool:
        """Makes it what it is to be. Returns whether something had to be undone, and nobody had only added to it."""
        self._write(self._kept)
        return True


class _Directory(Setting):
    """The working directory. When that was gone already when the runner began, nothing is restored."""

    def __init__(self) -> None:
        super().__init__("working directory", _directory, _chdir)

    def is_kept(self) -> bool:
        return self._kept is None or self.read() == self._kept


class _Umask(Setting):
    """The mask for the modes of new files. It can be read only by setting it."""

    def __init__(self) -> None:
        super().__init__("umask", _mask, _umask)

    def is_kept(self) -> bool:
        # While it is what it is to be, this changes nothing, not even for a moment.
        mask = _umask(self._kept)
        if mask == self._kept:
            return True
        _umask(mask)
        return False


class _SearchPath(Setting):
    """The module search path. What a handler adds stays, behind the rest, because its later imports may need it."""

    def __init__(self) -> None:
        super().__init__("module search path", lambda: tuple(sys.path), lambda value: None)

    def restore(self) -> bool:
        now, kept = self.read(), self._kept
        self._kept = (*kept, *(each for each in now if each not in kept))
        sys.path[:] = self._kept
        return bool(now[: len(kept)] != kept)


class _Environment(Setting):
    """The environment variables. One that a handler adds stays, because libraries that are set up late add some."""

    def __init__(self) -> None:
        super().__init__("environment variables", lambda: dict(_variables()), lambda value: None)

    def is_kept(self) -> bool:
        return bool(_variables() == self._kept)

    def restore(self) -> bool:
        now, kept = os.environ.copy(), {os.fsdecode(key): os.fsdecode(value) for key, value in self._kept.items()}
        changed = {name: value for name, value in kept.items() if now.get(name) != value}
        os.environ.update(changed)
        self._kept = self.read()
        return bool(changed)


class _Signals(Setting):
    """What this process does on signals, as far as Python knows."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # Not the function of `signal`, which makes an enum of each answer.
        read = raw_signal.getsignal
        super().__init__("signal handlers", lambda: tuple(map(read, _SIGNALS)), lambda value: None)
        self._loop = loop

    def restore(self) -> bool:
        for number, now, kept in zip(_SIGNALS, self.read(), self._kept, strict=True):
            if now is not kept and now != kept:
                self._loop.remove_signal_handler(number)
                if kept is not None:
                    _signal(number, kept)
        return True


class Alarm(Setting):
    """Whether a timer is set that sends a signal. By default, it ends the process. One of a plugin's start is kept."""

    def __init__(self, timer: int) -> None:
        """Args:
        timer: its number, as `signal.ITIMER_REAL`.
        """
        super().__init__("alarm", lambda: _getitimer(timer) != (0.0, 0.0), lambda value: None)
        self._timer = timer

    def is_kept(self) -> bool:
        return self._kept or not self.read()

    def restore(self) -> bool:
        _setitimer(self._timer, 0.0)
        return True


class _Logging(Setting):
    """The root logger, and which loggers are switched off."""

    def __init__(self) -> None:
        self._root = logging.getLogger()
        #: Whoever switches off all loggers switches this one off.
        self._own = logging.getLogger("gowork.worker")
        self._disabled = {name for name, logger in self._loggers() if logger.disabled}
        super().__init__("logging", self._value, lambda value: None)

    def _value(self) -> tuple[object, ...]:
        root = self._root
        manager = root.manager
        handlers, filters = tuple(root.handlers), tuple(root.filters)
        return root.level, handlers, filters, root.disabled, manager.disable, self._own.disabled, self._own.level

    def restore(self) -> bool:
        root = self._root
        level, root.handlers[:], root.filters[:], root.disabled, root.manager.disable, _, own_level = self._kept
        # These forget what loggers remember of their levels.
        root.setLevel(level)
        self._own.setLevel(own_level)
        for name, logger in self._loggers():
            logger.disabled = name in self._disabled
        return True

    def _loggers(self) -> list[tuple[str, logging.Logger]]:
        found = list(self._root.manager.loggerDict.items())
        return [(name, logger) for name, logger in found if isinstance(logger, logging.Logger)]


class _Functions(Setting):
    """Functions of a module or class that programs replace for a while."""

    def __init__(self, name: str, owner: Any, names: Sequence[str]) -> None:
        self._owner = owner
        self._names = names
        read = itemgetter(*names)
        super().__init__(name, lambda: read(vars(owner)), lambda value: None)

    def restore(self) -> bool:
        for name, function in zip(self._names, self._kept, strict=True):
            setattr(self._owner, name, function)
        return True


def settings_of(loop: asyncio.AbstractEventLoop) -> list[Keeper]:
    """Returns all settings. What they are now is what they are to be.

    Args:
        loop: the runner's, on which this is called.
    """
    return [
        _Directory(),
        _Umask(),
        StandardDescriptors(),
        Streams(),
        _Signals(loop),
        Alarm(signal.ITIMER_REAL),
        Setting("locale", partial(_setlocale, locale.LC_ALL), lambda value: _setlocale(locale.LC_ALL, value)),
        # Before the variables, because one that a handler has added must not stay.
        Setting("time zone", lambda: (_variables().get(_TZ), time.tzname), _set_time_zone),
        _Environment(),
        _SearchPath(),
        _Logging(),
        Setting("warning filters", lambda: tuple(warnings.filters), _set_filters),
        Setting("recursion limit", sys.getrecursionlimit, sys.setrecursionlimit),
        Setting("switch interval", sys.getswitchinterval, sys.setswitchinterval),
        Setting("socket timeout", socket.getdefaulttimeout, socket.setdefaulttimeout),
        Setting("garbage collector", lambda: (gc.isenabled(), gc.get_threshold()), _set_collector),
        Setting("event loop", lambda: _loop_settings(loop), lambda value: _set_loop(loop, value)),
        Setting("event loop policy", _policy, _set_policy),
        _Functions("time", time, _names(time)),
        _Functions("json", json, ("dump", "dumps", "load", "loads", "JSONEncoder", "JSONDecoder")),
        _Functions("json", json.JSONEncoder, _names(json.JSONEncoder)),
        _Functions("json", json.JSONDecoder, _names(json.JSONDecoder)),
    ]


_POLICY = "_event_loop_policy"
_TZ = b"TZ"


def _directory() -> str | None:
    try:
        return _getcwd()
    except OSError:
        return None  # It has been removed, or may not be read.


def _mask() -> int:
    mask = _umask(0o077)
    _umask(mask)
    return mask


def _variables() -> Mapping[bytes, bytes]:
    # The dict behind it, which needs no copy and no decoding. No public name leads there.
    found: Mapping[bytes, bytes] = os.environ._data  # type: ignore[attr-defined] # noqa: SLF001
    return found


def _set_time_zone(value: tuple[bytes | None, object]) -> None:
    name, _ = value
    if name is None:
        os.environ.pop("TZ", None)
    else:
        os.environ["TZ"] = os.fsdecode(name)
    _tzset()


def _set_filters(value: tuple[Any, ...]) -> None:
    # It has the interpreter forget what it remembers of the filters.
    warnings.resetwarnings()
    warnings.filters[:] = value  # type: ignore[index]  # a list, though typeshed promises less


def _set_collector(value: tuple[bool, tuple[int, int, int]]) -> None:
    is_enabled, threshold = value
    gc.set_threshold(*threshold)
    (gc.enable if is_enabled else gc.disable)()


def _loop_settings(loop: asyncio.AbstractEventLoop) -> tuple[Any, ...]:
    return loop.get_exception_handler(), loop.get_debug(), loop.get_task_factory()


def _set_loop(loop: asyncio.AbstractEventLoop, value: tuple[Any, ...]) -> None:
    handler, debug, factory = value
    loop.set_exception_handler(handler)
    loop.set_debug(debug)
    loop.set_task_factory(factory)


def _policy() -> Any:
    # The public function is deprecated. The interpreter makes its own policy when it is first asked for.
    policy = getattr(asyncio.events, _POLICY, None)
    return None if type(policy).__module__.startswith("asyncio.") else policy


def _set_policy(value: Any) -> None:
    setattr(asyncio.events, _POLICY, value)


def _names(owner: Any) -> tuple[str, ...]:
    kinds = (FunctionType, type(time.time))
    return tuple(name for name, value in vars(owner).items() if isinstance(value, kinds))
