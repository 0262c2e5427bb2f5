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

#: Reads "+PGID" and "-PGID", one to a line; at the end of file it kills the groups that are left. Without `--`,
#: which dash does not know.
#: Signals that a service manager sends to all of a worker's processes at once must not end it before them.
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
        # It died before the line above took effect.
        os.killpg(os.getpgrp(), signal.SIGKILL)


def end_group(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Sends a signal to the process group that this process leads; one that is gone already is no error."""
    try:
        os.killpg(pid, number)
    except (ProcessLookupError, PermissionError):
        # macOS answers EPERM for a group of zombies.
        pass


def hold_until_ended(descriptor: int) -> None:
    """Lets the wardens that this process makes from now on hold this descriptor too.

    So whoever waits for the end of a pipe, or for a lock, waits not only for this process but until its wardens have
    ended what they guard. Nothing else that is started gets it.
    """
    os.set_inheritable(descriptor, False)
    _held.append(descriptor)


def forget_held() -> None:
    """Takes hold_until_ended back: this process is a forked child, and what its parent holds is not its own."""
    _held.clear()


class Warden:
    r"""Ends the process groups that it guards when the process that made it is gone. A context manager, and not to be
    forked.

    `descriptor` may be passed to a child, which then guards itself by writing "+PID\n" to it before it executes
    anything.
    """

    def __init__(self, held: Iterable[int] = ()) -> None:
        """Starts the warden.

        Args:
            held: descriptors that it holds open to its end, besides those of hold_until_ended.

        Raises:
            OSError: when there is no /bin/sh.
        """
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
        """Ends this group with its owner from now on."""
        self._tell(b"+%d\n" % group)

    def release(self, group: int) -> None:
        """Lets this group be, whose number may soon be another's."""
        self._tell(b"-%d\n" % group)

    def _tell(self, line: bytes) -> None:
        try:
            os.write(self.descriptor, line)
        except BrokenPipeError:
            # Somebody has killed it. What it would have guarded is still ended in every way but a kill of this process.
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
