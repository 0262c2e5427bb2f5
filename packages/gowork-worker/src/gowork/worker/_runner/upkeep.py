"""Restores the settings of a runner's process that handlers have changed, so that no other handler's task is harmed.

It looks after each batch of attempts that have ended, before their reports leave, and about once a second. What differs
from the start is restored when none of the attempts runs any more that may have changed it. So a handler that changes
something for a while, and then changes it back, is left alone.

A runner that cannot be restored, or has nearly used up what all its handlers share, is to be replaced.
"""

from __future__ import annotations

import logging
import os
import resource
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from gowork.worker._core.logs import running
from gowork.worker._runner.allowance import Allowance
from gowork.worker._runner.clock import Clock
from gowork.worker._runner.exceptions import text

logger = logging.getLogger("gowork.worker.runner")

#: Seconds that a changed setting is left to the attempts that may have changed it, while others run beside them.
CHANGED_SECONDS_MAX = 30.0
#: Most lines in a second: of one setting, and of all together.
SETTING_LINES_MAX = 5
LINES_MAX = 20
#: How many handlers a line names.
HANDLERS_NAMED_MAX = 5
#: A runner is replaced when this share of the descriptors that it may have are open, or when it has more threads than
#: this besides those that run tasks.
DESCRIPTORS_SHARE_MAX = 0.8
THREADS_LEFT_MAX = 1000

_active_count, _open, _close = threading.active_count, os.open, os.close


class Keeper(Protocol):
    """One setting: see `settings.Setting`."""

    name: str

    def read(self) -> object:
        """Returns its value, which is never changed in place."""

    def is_kept(self) -> bool:
        """Whether it is what it is to be."""

    def restore(self) -> bool:
        """Makes it what it is to be. Returns whether something had to be undone."""


@dataclass(slots=True)
class _Change:
    """A setting that is not what it is to be."""

    value: object
    #: The attempts that may have changed it and still run.
    fences: set[int]
    #: The handlers of those and of the ones that have ended.
    handlers: set[str]
    since_ns: int


class Upkeep:
    """Looks after the settings of this process. All methods are called on the loop."""

    def __init__(
        self,
        settings: Sequence[Keeper],
        running: Callable[[], Mapping[int, str]],
        worn: Callable[[str], None],
        threads_of_tasks: int = 0,
        seldom: Sequence[Keeper] = (),
    ) -> None:
        """Args:
        settings: what to restore.
        running: returns {fence: handler} of the attempts that run.
        worn: told once why the runner is to be replaced, in words.
        threads_of_tasks: how many threads run tasks, at most.
        seldom: what to restore, too, and to look at only about once a second, because that takes long.
        """
        self._settings = (*settings, *seldom)
        self._all = tuple(enumerate(self._settings))
        self._often = self._all[: len(settings)]
        self._running = running
        self._tell_worn = worn
        self._threads_max = threads_of_tasks + THREADS_LEFT_MAX
        self._monotonic_ns = Clock.monotonic_ns
        self._allowance = Allowance(SETTING_LINES_MAX, LINES_MAX, time.monotonic)
        #: {number of a setting: how it has changed}
        self._changes: dict[int, _Change] = {}
        self._is_worn = False
        #: How often each setting was restored since this was asked last.
        self._restored: Counter[str] = Counter()

    def look(self, ended: Callable[[], Iterable[str]] = tuple, at_all: bool = False) -> None:
        """Restores what is to be restored. Raises nothing.

        Args:
            ended: returns the handlers of the attempts that have ended since the last look. Called only when something
                has changed.
            at_all: also at what is to be looked at seldom. While something is changed, that is looked at each time.
        """
        # Lines of this are about the runner, also when an attempt's own context leads here.
        outer = running.set(None)
        try:
            settings = self._all if at_all or self._changes else self._often
            changed = [number for number, setting in settings if not setting.is_kept()]
            if changed or self._changes:
                self._look_at(changed, set(ended()))
        except BaseException as error:  # noqa: BLE001 - what is read may be an object of a handler's
            self._wear(f"its settings cannot be looked at: {text(error)}")
        finally:
            running.reset(outer)

    def look_after(self) -> None:
        """Looks, also for what all handlers use up together. To be called about once a second."""
        self.look(at_all=True)
        try:
            self._look_at_supplies()
        except BaseException as error:  # noqa: BLE001 - handlers may replace what is called here
            self._wear(f"its supplies cannot be looked at: {text(error)}")
        for setting, times in self._allowance.left_out().items():
            logger.warning("restored settings were not logged one by one", extra={"setting": setting, "times": times})

    def take_counts(self) -> dict[str, int]:
        """Returns how often each setting was restored since this was called last."""
        counts, self._restored = self._restored, Counter()
        return dict(counts)

    def _look_at(self, changed: Sequence[int], ended: set[str]) -> None:
        for number in self._changes.keys() - set(changed):
            # Whoever has changed it has changed it back.
            del self._changes[number]
        running = self._running()
        for number in changed:
            setting, now_ns = self._settings[number], self._monotonic_ns()
            value, change = setting.read(), self._changes.get(number)
            if change is None or change.value != value:
                since_ns = now_ns if change is None else change.since_ns
                change = _Change(value, set(running), ended | set(running.values()), since_ns)
                self._changes[number] = change
            change.fences &= running.keys()
            # Nobody is harmed while no others run beside them.
            is_long = now_ns - change.since_ns > CHANGED_SECONDS_MAX * 1e9 and len(running) > len(change.fences)
            if not change.fences or is_long:
                del self._changes[number]
                self._restore(setting, change.handlers)

    def _restore(self, setting: Keeper, handlers: set[str]) -> None:
        try:
            undone = setting.restore()
        except BaseException as error:  # noqa: BLE001 - the directory may be gone, and values are handlers' own
            self._wear(f"its {setting.name} cannot be restored: {text(error)}", handlers)
            return
        if not undone:
            return
        self._restored[setting.name] += 1
        suppressed = self._allowance.admit(setting.name)
        if suppressed is not None:
            extra: dict[str, object] = {"setting": setting.name}
            if handlers:
                extra["handlers"] = _named(handlers)
            if suppressed:
                extra["suppressed"] = suppressed
            logger.warning("a handler changed a setting of its runner, which is restored", extra=extra)

    def _look_at_supplies(self) -> None:
        threads = _active_count()
        if threads > self._threads_max:
            self._wear(f"{threads:,} threads run in it")
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        # The lowest free number.
        number = _open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        _close(number)
        if most != resource.RLIM_INFINITY and number >= most * DESCRIPTORS_SHARE_MAX:
            self._wear(f"{number:,} descriptors are open in it, and {most:,} are the most")

    def _wear(self, reason: str, handlers: Iterable[str] = ()) -> None:
        if not self._is_worn:
            self._is_worn = True
            extra: dict[str, object] = {"reason": reason}
            if handlers:
                extra["handlers"] = _named(handlers)
            logger.warning("a runner is to be replaced", extra=extra)
            self._tell_worn(reason)


def _named(handlers: Iterable[str]) -> str:
    names = sorted(handlers)
    return ", ".join(names[:HANDLERS_NAMED_MAX]) + (", ..." if len(names) > HANDLERS_NAMED_MAX else "")
