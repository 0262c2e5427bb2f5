"""Starts workers again when files with handlers have changed: `gowork up --reload`.

New code is loaded in a process of its own first. If it does not load, the workers go on with the code that they have.
"""

from __future__ import annotations

import asyncio
import os
import tokenize
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gowork.cli.processes import ChildFailed, Nursery
from gowork.cli.workers import Workers

#: Files that change within this time of one another count as one change; and how long that may go on.
_QUIET_MS = 200
_GATHERING_MS_MAX = 2000
#: When it is looked whether changes are noticed, though there was none.
_FIRST_LOOK_MS = 500
#: How long the modules may take to load, in seconds.
_LOADING_S_MAX = 60.0
#: How many changed files are named.
_NAMED_MAX = 3


@dataclass(frozen=True, slots=True)
class ReloadPlan:
    """What is watched, and what must load."""

    #: Folders whose Python files are watched, with all folders within.
    folders: Sequence[str]
    #: The modules of --import.
    modules: Sequence[str]


class ReloadError(Exception):
    """New code does not load."""


def is_available() -> bool:
    """Whether files can be watched here."""
    try:
        import watchfiles  # noqa: F401
    except ImportError:
        return False
    return True


async def reload_workers(
    plan: ReloadPlan, workers: Workers, nursery: Nursery, grace: float, say: Callable[[str], None]
) -> None:
    """Starts the workers again at each change. Lasts until it is cancelled, or files can't be watched any more.

    Args:
        plan: what is watched.
        workers: those that are started again.
        nursery: where new code is tried.
        grace: how long running tasks have to finish, in seconds.
        say: called with words for the user.
    """
    import watchfiles

    changes = watchfiles.awatch(
        *plan.folders,
        watch_filter=watchfiles.PythonFilter(),
        step=_QUIET_MS,
        debounce=_GATHERING_MS_MAX,
        rust_timeout=_FIRST_LOOK_MS,
        yield_on_timeout=True,
    )
    is_told = False
    try:
        async for changed in changes:
            if not is_told:
                # Only now it is certain that no change is missed.
                is_told = True
                say(f"watching the Python files in {', '.join(plan.folders)}")
            if not changed:
                continue
            paths = sorted({path for _, path in changed})
            try:
                check_syntax(paths)
                faults = await _check_modules(plan.modules, nursery)
            except ReloadError as error:
                say(f"{error}; the workers go on with the code that they have")
                continue
            for fault in faults:
                say(fault)
            say(f"{_named(paths)} changed: the workers start again; running tasks have {grace:g} s to finish")
            try:
                await workers.restart(grace)
            except ChildFailed as error:
                say(f"{error}; the next change starts the workers again")
            else:
                say("the workers run the new code")
    except (OSError, RuntimeError) as error:
        say(f"files can't be watched any more, and workers are not started again: {error}")


def check_syntax(paths: Iterable[str]) -> None:
    """Compiles the files that are there, without running them.

    Raises:
        ReloadError: when one is not Python. It names the line.
    """
    for path in paths:
        try:
            with tokenize.open(path) as file:
                compile(file.read(), path, "exec", dont_inherit=True)
        except OSError:
            continue  # It was removed. Who imports it fails next.
        except (SyntaxError, ValueError) as error:
            line, words = getattr(error, "lineno", None), getattr(error, "msg", str(error))
            raise ReloadError(f"{_short(path)}{f', line {line}' if line else ''}: {words}") from None


async def _check_modules(modules: Sequence[str], nursery: Nursery) -> list[str]:
    """Imports the modules in another process.

    Returns:
        What to say of modules some of whose handlers can't be used.

    Raises:
        ReloadError: when one does not load, or none of its handlers can be used.
    """
    if not modules:
        return []
    imports = [part for module in modules for part in ("--import", module)]
    child = await nursery.start(
        "the check of new code",
        ["-m", "gowork.cli", "plugins", *imports, "--output", "jsonl"],
        {"PYTHONDONTWRITEBYTECODE": "1"},
    )
    try:
        async with asyncio.timeout(_LOADING_S_MAX):
            rows = await child.lines()
    except TimeoutError:
        raise ReloadError(f"--import {' '.join(modules)} did not load within {_LOADING_S_MAX:g} s") from None
    finally:
        child.kill()
        await child.ended()
        nursery.forget(child)
    found = [(str(row.get("plugin", "")).partition(" (")[0], row) for row in rows]
    missing = set(modules) - {module for module, _ in found}
    if missing:
        # They have crashed the process, or ended it.
        names = " ".join(sorted(missing))
        raise ReloadError(
            f"--import {names} does not load: the process that tried it ended with exit code {child.code}"
        )
    faults = []
    for module, row in found:
        # An installed plugin may be broken, as it was before.
        for error in row.get("errors", ()) if module in modules else ():
            reason = str(error).removeprefix(f"{module}: ")
            if not row.get("handlers"):
                raise ReloadError(f"--import {module} does not load: {reason}")
            faults.append(f"--import {module}: {reason}; its other handlers are offered")
    return faults


def _named(paths: Sequence[str]) -> str:
    more = len(paths) - _NAMED_MAX
    return ", ".join(map(_short, paths[:_NAMED_MAX])) + (f" and {more:,} more" if more > 0 else "")


def _short(path: str) -> str:
    """Returns a path as seen from the working directory, if it is there."""
    try:
        return str(Path(path).relative_to(os.getcwd()))
    except (ValueError, OSError):
        return path
