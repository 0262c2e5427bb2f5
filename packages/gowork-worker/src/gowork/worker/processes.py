"""Keeps processes from outliving whoever started them.

Two means, used together: the kernel's parent-death signal, where there is one, for a single process; and a warden, a
small shell process that holds the read end of a pipe and ends whole process groups when the write end closes, however
its owner died.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from gowork.base.process_state import settle_signals, settled_umask

#: The last two are for plugins, which do not import gowork.base.
__all__ = [
    "Warden",
    "die_with_parent",
    "end_group",
    "forget_held",
    "hold_until_ended",
    "settle_signals",
    "settled_umask",
]

logger = logging.getLogger("gowork.worker")

_PR_SET_PDEATHSIG = 1
#: Descriptors that this process's wardens inherit; see hold_until_ended.
_held: list[int] = []

#: Reads lines: "+PGID" guards a group, "-PGID" forgets it. At the end of file it kills the groups that are left.
#: It ignores the signals that a service manager sends to all of a worker's processes, so that it outlives them.
#: `kill` gets no `--`, because dash does not know it.
WARDEN_SCRIPT = """\
trap '' TERM INT HUP
groups=
while read -r line; do
  case $line in
    +*) groups="$groups ${line#+}" ;;
    -*) kept=
        for group in $groups; do [ "$group" = "${line#-}" ] || kept="$kept $group"; done
        groups=$kept ;;
  esac
done
for group in $groups; do kill -KILL "-$group" 2>/dev/null; done
exit 0
"""


def die_with_parent(parent: int) -> None:
    """Makes the kernel kill this process when the thread that started it ends. Does nothing where the kernel cannot.

    Args:
        parent: the process id of the parent, which may have died already.
    """
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        # The parent died before the line above took effect.
        os.killpg(os.getpgrp(), signal.SIGKILL)


def end_group(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Sends a signal to the process group that process `pid` leads. A group that has ended already is no error."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        # macOS answers EPERM for a group of zombies.
        pass


def hold_until_ended(descriptor: int) -> None:
    """Has each warden that this process starts from now on inherit this descriptor. No other child inherits it.

    So a pipe ends, and a lock becomes free, only when the wardens have ended the groups that they guard.
    """
    os.set_inheritable(descriptor, False)
    _held.append(descriptor)


def forget_held() -> None:
    """Undoes hold_until_ended in a forked child, because the descriptors are its parent's."""
    _held.clear()


class Warden:
    r"""Ends the process groups that it guards when the process that made it is gone. It is a context manager.

    A forked child must not use it. `descriptor` may be passed to a child that is started: the child then guards itself
    by writing "+PID\n" to it before it executes anything.
    """

    def __init__(self, held: Iterable[int] = ()) -> None:
        """Starts the warden.

        Args:
            held: descriptors that the warden keeps open until it ends, besides those of hold_until_ended.

        Raises:
            OSError: when there is no /bin/sh.
        """
        #: Whether the log has said that it is gone.
        self._is_missed = False
        reader, self.descriptor = os.pipe()
        try:
            # A session of its own: a signal to its owner's group, or a Ctrl-C, must not reach it.
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", WARDEN_SCRIPT],
                stdin=reader,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(*_held, *held),
                start_new_session=True,
            )
        except OSError:
            os.close(self.descriptor)
            raise
        finally:
            os.close(reader)

    @property
    def pid(self) -> int:
        """The process id of the warden itself."""
        return self._process.pid

    def guard(self, group: int) -> None:
        """Has the warden end this group when the process that made the warden is gone."""
        self._tell(b"+%d\n" % group)

    def release(self, group: int) -> None:
        """Stops guarding this group, whose number may soon be another group's."""
        self._tell(b"-%d\n" % group)

    def _tell(self, line: bytes) -> None:
        try:
            os.write(self.descriptor, line)
        except BrokenPipeError:
            # Somebody has killed the warden. The groups are still ended, except when this process is killed.
            if self._is_missed:
                # Each isolated task, and each command of a plugin, comes here twice.
                return
            self._is_missed = True
            logger.warning("the warden is gone: process groups may outlive a killed worker")

    def close(self) -> None:
        """Ends the warden, and the groups that it still guards."""
        os.close(self.descriptor)
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
