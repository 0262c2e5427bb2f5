"""Lock files by which a restarted worker can prove that nothing of its predecessor is left.

Each supervisor of a worker with a name of its own keeps a file, locked by a descriptor that all its runners inherit.
Such a lock belongs to the open file, not to a process (flock(2)). So it is free when the last of these processes has
ended, however it ended, and not before. Whoever can lock a predecessor's file knows that its tasks do not run any more.

Invariants: PROOF (an instance is named as ended only while its lock is held here); a file is removed only by a process
that holds its lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import socket
import tempfile
from pathlib import Path

from gowork.base.directories import make_private
from gowork.proto.limits import ENDED_INSTANCES_MAX

_SUFFIX = ".lock"
_MACHINE_BYTES_MAX = 1024


def default_state_dir() -> Path:
    """Returns where workers of this user keep such files: in XDG_STATE_HOME or the directory for temporary files."""
    home = os.environ.get("XDG_STATE_HOME")
    if home and os.path.isabs(home):
        return Path(home, "gowork", "workers")
    return Path(tempfile.gettempdir(), f"gowork-{os.getuid()}", "workers")


class InstanceLocks:
    """Holds this instance's lock, and those of its predecessors that have ended for certain."""

    def __init__(self, state_dir: Path, name: str, instance: str) -> None:
        """Locks this instance's file.

        Args:
            state_dir: made when it is not there.
            name: the worker's name.
            instance: a random id of this process, without a slash.

        Raises:
            OSError: the file cannot be kept there; or another user may write there, who could make a leader take tasks
                for ended that still run.
        """
        # A name may have characters that a file name cannot. The digest tells apart names with the same readable part.
        readable = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:64]
        self._directory = state_dir / f"{readable}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
        make_private(state_dir)
        make_private(self._directory)
        self._own = f"{instance}{_SUFFIX}"
        #: {name of a predecessor's file: descriptor that holds its lock}
        self._ended: dict[str, int] = {}
        #: The descriptor that holds this instance's lock. Runners inherit it.
        self.descriptor = self._lock_own(instance)

    def ended(self) -> list[str]:
        """Returns predecessors that have ended with all their runners, the latest first, as many as Hello may name."""
        for path in self._directory.glob(f"*{_SUFFIX}"):
            if path.name != self._own and path.name not in self._ended:
                self._try(path)
        latest = sorted(self._ended, key=self._started_ns, reverse=True)
        return [name.removesuffix(_SUFFIX) for name in latest[:ENDED_INSTANCES_MAX]]

    def forget(self, instances: list[str]) -> None:
        """Removes the files of predecessors that a leader knows to have ended."""
        for instance in instances:
            descriptor = self._ended.pop(f"{instance}{_SUFFIX}", None)
            if descriptor is not None:
                self._remove(f"{instance}{_SUFFIX}")
                os.close(descriptor)

    def close(self, *, left: bool) -> None:
        """Gives up the locks.

        Args:
            left: whether the worker has said goodbye. Then it holds nothing, and nobody will need a proof of its end.
        """
        for descriptor in self._ended.values():
            os.close(descriptor)
        self._ended.clear()
        if left:
            self._remove(self._own)
        os.close(self.descriptor)

    def _lock_own(self, instance: str) -> int:
        # Under another name until it is locked and written, so that nobody takes it for the file of an ended instance.
        path = self._directory / f".{instance}"
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.write(descriptor, _machine())
            path.rename(self._directory / self._own)
        except OSError:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        return descriptor

    def _try(self, path: Path) -> None:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            # Another successor has removed it.
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            return
        if os.read(descriptor, _MACHINE_BYTES_MAX) == _machine():
            self._ended[path.name] = descriptor
        else:
            # A lock proves nothing about another machine that shares this directory. After a reboot of this machine
            # no proof is needed, because that takes longer than any lease.
            self._remove(path.name)
            os.close(descriptor)

    def _started_ns(self, name: str) -> int:
        return os.fstat(self._ended[name]).st_mtime_ns

    def _remove(self, name: str) -> None:
        with contextlib.suppress(OSError):
            (self._directory / name).unlink()


def _machine() -> bytes:
    """Returns what tells this boot of this machine from every other."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = ""
    return (boot or socket.gethostname()).encode()[:_MACHINE_BYTES_MAX]
