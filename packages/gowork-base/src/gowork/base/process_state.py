"""Sets what a process inherited from the program that started it to values that gowork can work with.

Ignored and blocked signals, timers, limits, the file mode mask and closed standard streams all survive exec. Leader,
worker, runners and the commands of the shell plugin settle them first. A program that uses gowork as a library is left
alone.

What an operator may have set on purpose stays: an ignored SIGHUP (nohup), the signals of the terminal, niceness, the
limit of core files, and all other limits.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sys

#: How many files a process may open, if its hard limit allows that: a leader or a worker needs some for each connection
#: and each runner. The number is not higher because some programs close every descriptor up to the limit before they
#: start others.
OPEN_FILES = 65536
#: Signals that nohup, shells without job control, or Python itself ignore on purpose.
_MEANT = frozenset(
    {
        signal.SIGHUP,
        signal.SIGINT,
        signal.SIGQUIT,
        signal.SIGTSTP,
        signal.SIGTTIN,
        signal.SIGTTOU,
        signal.SIGPIPE,
        signal.SIGXFSZ,
    }
)
_GROUP_AND_OTHERS = 0o077
_OTHERS_WRITE = 0o002


def settle() -> None:
    """Settles everything. Call it in the main thread, before anything else is started."""
    _open_standard_streams()
    settle_signals()
    _stop_timers()
    os.umask(settled_umask())
    _raise_open_files()


def settle_signals() -> None:
    """Unblocks all signals, and restores the default action of ignored ones, except those in _MEANT.

    While SIGCHLD is ignored, the kernel discards exit codes. Call it in the main thread.
    """
    for number in signal.valid_signals():
        if number not in _MEANT and signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def settled_umask() -> int:
    """Returns the mask for the modes of new files: it keeps all rights of the owner, and forbids others to write.

    The operator decides what the group may do, and whether others may read.
    """
    mask = os.umask(_GROUP_AND_OTHERS)
    os.umask(mask)
    return (mask | _OTHERS_WRITE) & _GROUP_AND_OTHERS


def _stop_timers() -> None:
    """Stops timers that were set before exec. A timer that this process has set is known by its signal's handler."""
    timers = (signal.ITIMER_REAL, signal.SIGALRM), (signal.ITIMER_VIRTUAL, signal.SIGVTALRM)
    for timer, number in (*timers, (signal.ITIMER_PROF, signal.SIGPROF)):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.setitimer(timer, 0)


def _raise_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # The real limit of macOS is lower than the one it reports.
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _open_standard_streams() -> None:
    """Opens /dev/null for closed streams. Otherwise the next socket would get the number, and receive prints."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            # Its number is the lowest free one, which is `descriptor`. Programs that this process starts inherit it.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            stream = open(descriptor, "r" if name == "stdin" else "w", encoding="utf-8", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
