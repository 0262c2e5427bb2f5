"""Gathers and sums the metrics that handlers keep with prometheus_client, and keeps those of ended runners.

Each runner has a directory of its own, which an environment variable names to prometheus_client. The runner and its
children keep their values there in mapped files, which are complete however a process ends. When a process has ended,
its values are added to what this process remembers, and its files are removed. So disk and scrapes cost as much as the
processes that run, however many have ended.

Invariant: at any moment a file's values are counted once, in the file or among the remembered values. One assignment
under a lock moves them, after all that can fail and before the file is removed. The remembered values end with this
process; Prometheus then sees each series reset. Its directory is removed by itself or by the next worker.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Self

from prometheus_client.core import REGISTRY, Metric
from prometheus_client.registry import Collector

from gowork.base.directories import make_private
from gowork.worker._app.metric_files import Values, complain_once, read

logger = logging.getLogger("gowork.worker")

#: The environment variable that tells prometheus_client, at its import, to keep values in files, and later where.
VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
#: Metrics of this prefix are gowork's own.
RESERVED_PREFIX = "gowork_"
#: With less free room a runner gets no directory, because SIGBUS ends it when its mapped files find no room.
ROOM_BYTES_MIN = 16 << 20
#: Seconds between two looks for ended children of runners. Each scrape looks too.
_LOOK_INTERVAL = 60.0
#: The suffix of a file whose process has ended, until its values are remembered.
_SUFFIX_ENDED = ".ended"


def default_metrics_dir() -> Path:
    """Where this user's workers keep their directories: in XDG_RUNTIME_DIR, else where temporary files are."""
    home = os.environ.get("XDG_RUNTIME_DIR")
    if home and os.path.isabs(home) and os.path.isdir(home):
        return Path(home, "gowork-metrics")
    return Path(tempfile.gettempdir(), f"gowork-metrics-{os.getuid()}")


class HandlerMetrics(Collector):
    """Keeps the metrics of a fleet's runners (MetricsKeeper) while it is entered, and collects them for a registry."""

    def __init__(self, home: Path) -> None:
        """`home` is shared with other workers of this user, and made when it is not there."""
        self._home = home
        self._directory = home / secrets.token_hex(8)
        #: The directory's, locked for as long as this process lives. Programs that clean up temporary files heed that.
        self._descriptor = -1
        self._started = 0
        #: Guards what follows.
        self._lock = threading.Lock()
        #: {a runner's directory: whether the runner has ended}
        self._directories: dict[Path, bool] = {}
        #: The values of all processes that have ended.
        self._remembered = Values()
        #: Files that are remembered and could not be removed.
        self._done: set[Path] = set()
        #: Directories of runners that have ended, for the thread. None ends it.
        self._left: SimpleQueue[Path | None] = SimpleQueue()
        #: Reads the files that they have left, on a thread of its own.
        self._thread = threading.Thread(target=self._remember_all, name="metrics", daemon=True)

    def __enter__(self) -> Self:
        """Makes the directory, and removes those of workers that were killed.

        Raises:
            OSError: when the directory cannot be made.
        """
        make_private(self._home)
        self._remove_orphans()
        # It has another name until it is locked, so that no worker takes it for an orphan.
        hidden = self._home / f".{self._directory.name}"
        hidden.mkdir(mode=0o700)
        try:
            self._descriptor = os.open(hidden, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            hidden.rename(self._directory)
        except OSError:
            shutil.rmtree(hidden, ignore_errors=True)
            raise
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.put(None)
        self._thread.join()
        shutil.rmtree(self._directory, ignore_errors=True)
        os.close(self._descriptor)

    def begin(self) -> dict[str, str]:
        """Makes one more runner's directory and returns its environment variables; none when there is no directory."""
        self._started += 1
        # Named by a number, because a later runner may get the same process id while these values are being read.
        directory = self._directory / str(self._started)
        try:
            room = os.statvfs(self._directory)
            if room.f_bavail * room.f_frsize < ROOM_BYTES_MIN:
                raise OSError(errno.ENOSPC, "no room for mapped files", str(self._directory))
            directory.mkdir(mode=0o700)
        except OSError as error:
            logger.warning("a runner's handlers have no metrics", extra={"reason": str(error)})
            return {}
        with self._lock:
            self._directories[directory] = False
        return {VARIABLE: str(directory)}

    def ended(self, variables: dict[str, str]) -> None:
        """Notes that the runner with these variables has ended."""
        if VARIABLE in variables:
            self._left.put(Path(variables[VARIABLE]))

    def collect(self) -> Iterable[Metric]:
        """Yields the metrics of all processes. Called at each scrape, on the listener's threads."""
        with self._lock:
            self._remember()
            values = self._remembered.copy()
            for directory, ended in self._directories.items():
                with _complaining():
                    values.add(read(self._files(directory), ended=ended))
        yield from _not_ours(values.metrics())

    def _remember_all(self) -> None:
        """Remembers what ended runners and their children have left, on the thread."""
        while True:
            try:
                directory = self._left.get(timeout=_LOOK_INTERVAL)
                if directory is None:
                    return
            except Empty:
                directory = None
            with self._lock:
                if directory is not None:
                    self._directories[directory] = True
                self._remember()

    def _remember(self) -> None:
        """Adds the values of ended runners, and of ended children of others. Files that cannot be read now stay."""
        for directory, ended in list(self._directories.items()):
            with _complaining():
                files = self._files(directory)
                left = files if ended else [path for path in map(_taken_from_dead, files) if path is not None]
                if left:
                    remembered = self._remembered.copy()
                    remembered.add(read(left, ended=True))
                    self._remembered = remembered
                if ended:
                    del self._directories[directory]
                    shutil.rmtree(directory, ignore_errors=True)
                else:
                    self._remove(left)

    def _files(self, directory: Path) -> list[Path]:
        return [path for path in directory.glob("*_*.*") if path not in self._done]

    def _remove(self, paths: Iterable[Path]) -> None:
        for path in paths:
            try:
                path.unlink()
            except OSError:
                self._done.add(path)

    def _remove_orphans(self) -> None:
        for directory in self._home.iterdir():
            if directory.name.startswith("."):
                continue
            with contextlib.suppress(OSError):
                descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    # Its worker holds the lock for as long as it lives.
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(directory, ignore_errors=True)
                finally:
                    os.close(descriptor)


class InProcessMetrics(Collector):
    """Metrics of this process, for handlers that run in it (runners=0)."""

    def collect(self) -> Iterable[Metric]:
        """Yields the metrics. Called at each scrape, on the listener's threads."""
        try:
            metrics = list(REGISTRY.collect())
        except Exception as error:  # noqa: BLE001 - handlers may have registered collectors of their own
            complain_once("metrics of a handler cannot be read", repr(error))
            return
        yield from _not_ours(metrics)


def _not_ours(metrics: Iterable[Metric]) -> Iterable[Metric]:
    for metric in metrics:
        if metric.name.startswith(RESERVED_PREFIX):
            complain_once("a handler's metric has a name of gowork's own and is left out", metric.name)
        else:
            yield metric


@contextlib.contextmanager
def _complaining() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        complain_once("metrics of a handler cannot be read", str(error))


def _taken_from_dead(path: Path) -> Path | None:
    """Renames a file whose process has ended, and returns its new path. None when it may still be written to."""
    if path.suffix == _SUFFIX_ENDED:
        return path
    if not _is_dead(path):
        return None
    taken = path.with_suffix(_SUFFIX_ENDED)
    path.rename(taken)
    # A new process with the same id may have opened the file before it was renamed. Then it lives and makes no other.
    if not _is_dead(path) and not path.exists():
        taken.rename(path)
        return None
    return taken


def _is_dead(path: Path) -> bool:
    """Whether the process that a file is named after has ended."""
    pid = path.stem.rpartition("_")[2]
    if not pid.isdecimal():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass  # It is another user's and lives, or the number is no process id.
    return False
