"""Checks a plugin: loads it, and runs its handlers, in processes of their own, and says what is wrong with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import msgspec
from msgspec import Struct

from gowork.base import extensions
from gowork.proto.limits import HANDLER_DESCRIPTION_BYTES_MAX
from gowork.worker._authoring.probe import BUILT_IN, Found, Request
from gowork.worker._core.plugins import ENTRY_POINT_GROUP

#: How long a probe may take besides the time that loading and a run may take, in seconds.
PROBE_SECONDS = 5.0
#: How many handlers are named.
_NAMED_MAX = 10
#: How many bytes of what a plugin prints are kept, however much it is.
PRINTED_BYTES_MAX = 64 << 10
#: How long to wait for what a process has printed, once it has ended, in seconds.
_REST_SECONDS_MAX = 1.0
#: How many characters of what a plugin printed are shown.
_SHOWN_CHARS = 200
#: What is said of a handler whose payload's schema is left out of its description.
_TOO_LARGE = (
    f"with its payload's schema its description has more than {HANDLER_DESCRIPTION_BYTES_MAX:,} bytes, so clients do "
    "not see the schema, nor check payloads by it: let the payload have fewer fields"
)


class Result(Struct, frozen=True):
    """What one check found."""

    check: str
    #: Empty for the whole plugin.
    handler: str
    #: What is wrong, or not tried; empty: nothing.
    faults: list[str]
    #: What there is to say when nothing is wrong.
    note: str = ""
    is_skipped: bool = False


class Check:
    """The checks of one plugin.

    Args:
        plugin: a plugin or a distribution; with is_module the name of a module.
        is_module: whether it is a module that is not installed.
        tries: (handler, payload) to run handlers with.
        load_seconds: how long loading may take.
        run_seconds: how long each run of a handler may take.
    """

    def __init__(
        self,
        plugin: str,
        *,
        is_module: bool,
        tries: Sequence[tuple[str, str]],
        load_seconds: float,
        run_seconds: float = 5.0,
    ) -> None:
        self._plugin, self._is_module, self._tries = plugin, is_module, tries
        self._load_seconds, self._run_seconds = load_seconds, run_seconds

    def run(self) -> Iterator[Result]:
        """Yields what each check finds."""
        found, printed = self._probe("load")
        if isinstance(found, str):
            yield Result("load", "", [found])
            return
        slow = [f"it takes {found.seconds:.1f} s; --load-seconds allows {self._load_seconds:g}"]
        faults = [*found.faults, *(slow if found.seconds > self._load_seconds else [])]
        if not found.names and not self._is_module:
            known = sorted({BUILT_IN, *(point.name for point in extensions.installed(ENTRY_POINT_GROUP))})
            more = f" and {len(known) - _NAMED_MAX} more" if len(known) > _NAMED_MAX else ""
            faults.append(f"installed are {', '.join(known[:_NAMED_MAX])}{more}")
        yield Result("load", "", faults, f"{_counted(len(found.handlers))} in {found.seconds:.2f} s")
        if not found.handlers and found.faults:
            # Nothing is there of which the other checks could say that it is right.
            return
        yield Result("prints nothing when loaded", "", [f"it prints {printed!r}"] if printed else [])
        yield Result("leaves nothing behind when loaded", "", found.left)
        named, _ = self._probe("names", names=tuple(found.names))
        clashes = [named] if isinstance(named, str) else [fault for fault in named.faults if fault not in found.faults]
        yield Result("no other plugin here has its names", "", clashes)
        again, _ = self._probe("load")
        differs = isinstance(again, str) or again.handlers != found.handlers
        yield Result("same handlers in each process", "", ["another process has others"] if differs else [])
        for name in found.handlers:
            without = ["its payload's type has no JSON schema"] if name in found.unschemed else []
            large = [_TOO_LARGE] if name in found.oversized else []
            yield Result("payload has a schema", name, without + large)
        for name in found.handlers:
            payloads = [payload for handler, payload in self._tries if handler == name]
            if not payloads:
                hint = f"not run: give a payload that may be run, as in --try {name} '{{}}'"
                yield Result("runs, and stops when asked to", name, [hint], is_skipped=True)
            for payload in payloads:
                yield from self._try(name, payload, is_async=name in found.asyncs)
        for name in dict.fromkeys(name for name, _ in self._tries if name not in found.handlers):
            offered = ", ".join([*found.handlers][:_NAMED_MAX]) + (", …" if len(found.handlers) > _NAMED_MAX else "")
            yield Result("runs", name, [f"the plugin has no such handler; it has {offered}"])

    def _try(self, name: str, payload: str, *, is_async: bool) -> Iterator[Result]:
        run, _ = self._probe("run", name, payload)
        if isinstance(run, str):
            yield Result("runs", name, [run])
        else:
            yield Result("runs", name, run.faults, f"{run.ended} in {run.seconds:.2f} s")
            if is_async:
                yield Result("does not block its loop", name, run.blocks)
            yield Result("leaves nothing behind", name, run.left)
        for what, check in (("cancel", "stops when cancelled"), ("limit", "stops at its time limit")):
            found, _ = self._probe(what, name, payload)
            if isinstance(found, str):
                yield Result(check, name, [found])
            elif found.untried:
                yield Result(check, name, [found.untried], is_skipped=True)
            else:
                yield Result(check, name, found.faults, found.ended.replace("_", " "))

    def _probe(
        self, what: str, handler: str = "", payload: str = "", names: tuple[str, ...] = ()
    ) -> tuple[Found | str, str]:
        """Returns (what was found, or why nothing was; what was printed)."""
        with tempfile.TemporaryDirectory(prefix="gowork-check-") as folder:
            asked, answer = Path(folder, "asked"), Path(folder, "answer")
            request = {
                "plugin": self._plugin, "is_module": self._is_module, "answer": str(answer), "what": what,
                "handler": handler, "payload": payload, "names": names, "run_seconds": self._run_seconds,
            }  # fmt: skip
            # In a file, because an argument of a process has a bound, which a payload may exceed once it is escaped.
            asked.write_bytes(msgspec.json.encode(msgspec.convert(request, Request)))
            # A group of its own, so that children of the plugin end with it.
            process = subprocess.Popen(
                # As for runners: a file in the working directory could replace a library's module.
                [sys.executable, "-P", "-m", "gowork.worker._authoring.probe", str(asked)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            assert process.stdout is not None
            printed = Printed(process.stdout)
            is_run = bool(handler)
            seconds = self._load_seconds + PROBE_SECONDS + (self._run_seconds if is_run else 0.0)
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                end_group(process)
            shown = _end_of(printed.end().decode(errors="replace").strip())
            if answer.exists():
                found = msgspec.json.decode(answer.read_bytes(), type=Found)
                if code is None:
                    found.left.append(f"the process had not ended {seconds:g} s later")
                return found, shown
            if code is None:
                return (
                    f"it does not end within {seconds:g} s; --{'run' if is_run else 'load'}-seconds allows more",
                    shown,
                )
            return f"it ends its process ({in_words(code)}): {shown}", shown


class Printed:
    """Reads what a process prints as it comes, and keeps the last PRINTED_BYTES_MAX of it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._kept = b""
        self._reader = threading.Thread(target=self._read, name="printed", daemon=True)
        self._reader.start()

    def end(self) -> bytes:
        """Returns the end of what was printed. Call it when the process has ended."""
        # A child that has left the group may hold the pipe open for ever.
        self._reader.join(_REST_SECONDS_MAX)
        return self._kept

    def _read(self) -> None:
        with self._stream as stream:
            while part := os.read(stream.fileno(), PRINTED_BYTES_MAX):
                self._kept = (self._kept + part)[-PRINTED_BYTES_MAX:]


def _counted(handlers: int) -> str:
    return "1 handler" if handlers == 1 else f"{handlers:,} handlers"


def _end_of(text: str) -> str:
    """Returns the last lines of a text, as many as fit. The last one has its beginning, which names the exception."""
    *lines, last = text.split("\n")
    shown = last if len(last) <= _SHOWN_CHARS else f"{last[:_SHOWN_CHARS]}…"
    for line in reversed(lines):
        if len(line) + 1 + len(shown) > _SHOWN_CHARS:
            return f"…\n{shown}"
        shown = f"{line}\n{shown}"
    return shown


def end_group(process: subprocess.Popen[bytes]) -> None:
    """Ends a process that leads a group, and all that is in it."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        # All of it has ended.
        pass
    process.wait()


def in_words(code: int) -> str:
    """Returns how a process ended, from its exit code."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        # A real-time signal between the first and the last one.
        return f"signal {-code}"
