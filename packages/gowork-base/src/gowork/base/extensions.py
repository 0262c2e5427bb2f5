"""Loads what other packages contribute by entry points: handlers, stores, commands. All are loaded by the same rules.

Nothing that an installed package does while it is imported ends the process, or writes to its standard output. An error
names the distribution and version of the package that failed. This module imports neither gRPC nor OpenTelemetry.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any, TypeVar

T = TypeVar("T")
logger = logging.getLogger("gowork.extensions")

#: An import that takes longer is named in the log, and again each time as many seconds have passed.
SLOW_SECONDS = 5.0


class ExtensionError(Exception):
    """An extension could not be loaded. The message is one line: the error's class, its text, where it was raised."""


@dataclass(frozen=True, slots=True)
class Extension:
    """One entry point of an installed distribution. Two distributions may have entry points of the same name."""

    name: str
    #: "module" or "module:attribute"
    value: str
    #: The distribution's name and version; empty where unknown.
    distribution: str
    version: str
    _load: Callable[[], Any]

    @property
    def origin(self) -> str:
        """The distribution and its version, as in "thumbnails 1.2"; empty where both are."""
        return f"{self.distribution} {self.version}".strip()

    @property
    def title(self) -> str:
        """The name with its origin, as in "resize (thumbnails 1.2)"."""
        return f"{self.name} ({self.origin})" if self.origin else self.name

    def load(self) -> Any:
        """Imports and returns what the entry point names.

        Raises:
            ExtensionError: the import raised anything except KeyboardInterrupt.
        """
        return attempt(self._load, self.title)


def installed(group: str) -> list[Extension]:
    """Returns the entry points of a group, sorted by name and distribution. Those that cannot be read are left out."""
    try:
        points: Iterable[metadata.EntryPoint] = metadata.entry_points(group=group)
    except Exception:  # noqa: BLE001 - one broken installation must not hide the others
        points = _points_one_by_one(group)
    found = [_extension(point) for point in points]
    return sorted(found, key=lambda extension: (extension.name, extension.distribution, extension.value))


def attempt(load: Callable[[], T], title: str) -> T:
    """Calls a function that imports foreign code, with standard output redirected to standard error.

    Args:
        load: imports, and returns what it found.
        title: what is loaded, for the log.

    Raises:
        ExtensionError: `load` raised anything except KeyboardInterrupt, which passes because a person sent it.
    """
    with _named_when_slow(title), contextlib.redirect_stdout(sys.stderr):
        try:
            return load()
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            raise ExtensionError(describe(error)) from error


def describe(error: BaseException) -> str:
    """Returns an error as one line, with the last place in its traceback outside of gowork and the import system."""
    kind = type(error).__name__
    try:
        text = " ".join(str(error).split())[:500]
    except BaseException as second:  # noqa: BLE001 - the exception is foreign code too
        text = f"its text cannot be read: {type(second).__name__}"
    where = _where(error)
    return f"{kind}: {text}{where}" if text else f"{kind}{where}"


def _points_one_by_one(group: str) -> Iterator[metadata.EntryPoint]:
    seen = set()
    for distribution in metadata.distributions():
        try:
            name = distribution.metadata["Name"]
            points = [point for point in distribution.entry_points if point.group == group]
        except Exception as error:  # noqa: BLE001 - as above
            logger.warning("a distribution cannot be read", extra={"reason": describe(error)})
            continue
        # The first on the path hides those behind it.
        if name not in seen:
            seen.add(name)
            yield from points


def _extension(point: metadata.EntryPoint) -> Extension:
    name = version = ""
    try:
        if point.dist is not None:
            name, version = str(point.dist.metadata["Name"] or ""), str(point.dist.version or "")
    except Exception as error:  # noqa: BLE001 - as above
        logger.warning("a distribution cannot be read", extra={"reason": describe(error)})
    return Extension(point.name, point.value, name, version, point.load)


@contextlib.contextmanager
def _named_when_slow(title: str) -> Iterator[None]:
    done = threading.Event()

    def watch() -> None:
        while not done.wait(SLOW_SECONDS):
            logger.warning("an extension takes long to be imported", extra={"extension": title})

    threading.Thread(target=watch, name="gowork-imports", daemon=True).start()
    try:
        yield
    finally:
        done.set()


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    last = None
    while trace is not None:
        name = trace.tb_frame.f_code.co_filename
        if "importlib" not in name and not name.startswith("<frozen") and not _is_ours(name):
            last = trace
        trace = trace.tb_next
    return f" ({last.tb_frame.f_code.co_filename}:{last.tb_lineno})" if last is not None else ""


def _is_ours(name: str) -> bool:
    return any(f"gowork/{part}/" in name for part in ("base", "worker", "leader", "cli"))
