"""The settings of a runner's process that few handlers touch: how each is read and restored.

Reading them takes long, so that it happens about once a second. All functions that are used here are held from before
the plugins are imported.
"""

from __future__ import annotations

import logging
import resource
import signal

from gowork.worker._runner.settings import Alarm, Setting
from gowork.worker._runner.upkeep import Keeper

_getrlimit, _setrlimit = resource.getrlimit, resource.setrlimit
_factory, _set_factory = logging.getLogRecordFactory, logging.setLogRecordFactory
_class, _set_class = logging.getLoggerClass, logging.setLoggerClass
#: Those that stop other handlers when one lowers them. Descriptors have a rule of their own, in `upkeep`.
_LIMITS = (resource.RLIMIT_AS, resource.RLIMIT_DATA, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU)


class _Limits(Setting):
    """The soft limits of what the process may use. One that a handler has raised stays, because that stops nobody."""

    def __init__(self) -> None:
        super().__init__("resource limits", _soft_limits, lambda value: None)

    def is_kept(self) -> bool:
        return not any(map(_is_lower, self.read(), self._kept))

    def restore(self) -> bool:
        for limit, kept in zip(_LIMITS, self._kept, strict=True):
            soft, hard = _getrlimit(limit)
            if _is_lower(soft, kept):
                # Nobody can raise a hard limit again, except root.
                _setrlimit(limit, (hard if _is_lower(hard, kept) else kept, hard))
        if not self.is_kept():
            raise OSError("a hard limit has been lowered, too")
        return True


def seldom_settings() -> list[Keeper]:
    """Returns all of them. What they are now is what they are to be."""
    return [
        Alarm(signal.ITIMER_VIRTUAL),
        Alarm(signal.ITIMER_PROF),
        _Limits(),
        Setting("log record factory", _factory, _set_factory),
        Setting("logger class", _class, _set_class),
    ]


def _soft_limits() -> tuple[int, ...]:
    return tuple(_getrlimit(limit)[0] for limit in _LIMITS)


def _is_lower(limit: int, other: int) -> bool:
    # No limit is a negative number.
    return limit != resource.RLIM_INFINITY and (other == resource.RLIM_INFINITY or limit < other)
