"""Lists plugins, which are loaded in another process: one that exits or crashes when it is loaded hides no other.

Plugins of other environments are loaded by the Python of these.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from gowork.worker._authoring.check import end_group, in_words
from gowork.worker._core.plugins import Loaded, PluginInfo, add_search_path, load, names_of
from gowork.worker._core.selection import NOT_INSTALLED, Selection
from gowork.worker._fleet import environments
from gowork.worker._fleet.interpreters import OWN, Interpreter

#: How long a process may take to load plugins, in seconds.
LOAD_SECONDS_MAX = 60.0


class HandlerRow(Struct, frozen=True):
    """One handler of a plugin."""

    name: str
    isolation: str
    default: bool
    time_limit_ms: int | None
    max_attempts: int | None
    summary: str


class Row(Struct, frozen=True):
    """What there is to say of one plugin."""

    plugin: str
    version: str = ""
    handlers: Sequence[HandlerRow] = ()
    hooks: Sequence[str] = ()
    errors: Sequence[str] = ()
    #: The environment that has it; empty for the own one.
    environment: str = ""


class _Request(Struct, frozen=True):
    """What a process is to load, and where it writes what it found."""

    selection: Selection
    answer: str
    #: Whether plugins are named and nothing is loaded.
    only_names: bool = False


def rows_of_all(selection: Selection, paths: Sequence[str]) -> list[Row]:
    """Returns a row for each plugin of a selection, in this environment and in others.

    Args:
        selection: what is loaded; modules only here.
        paths: where the other environments are. One that can't be used has a row without a plugin.
    """
    found = {"": rows_of(selection), **{path: _rows_there(selection, path) for path in paths}}
    missing = [{row.plugin for row in rows if NOT_INSTALLED in row.errors} for rows in found.values()]
    absent = set.intersection(*missing)
    places: dict[str, set[str]] = {}
    for path, rows in found.items():
        for handler in (handler for row in rows for handler in row.handlers):
            places.setdefault(handler.name, set()).add(path)
    listed: list[Row] = []
    for path, rows in found.items():
        for row in rows:
            if NOT_INSTALLED not in row.errors:
                doubled = [handler.name for handler in row.handlers if len(places[handler.name]) > 1]
                errors = [f"another environment offers the handler {name!r} too" for name in doubled]
                listed.append(msgspec.structs.replace(row, environment=path, errors=[*row.errors, *errors]))
            elif row.plugin in absent:
                absent.remove(row.plugin)
                listed.append(row)
    return listed


def _rows_there(selection: Selection, path: str) -> list[Row]:
    """Returns the rows of an environment, as a worker would load its plugins."""
    try:
        asyncio.run(environments.check_version(path, None))
    except environments.EnvironmentFault as fault:
        return [Row("", errors=(str(fault),))]
    there = msgspec.structs.replace(selection, imports=(), built_in=False)
    found = rows_of(there, Interpreter.of(path))
    return found or [Row("", errors=("no plugin is installed there",))]


def rows_of(selection: Selection, interpreter: Interpreter = OWN) -> list[Row]:
    """Returns a row for each plugin of a selection, in the order in which they are loaded.

    All are loaded together, so that those with the same handler are found. When that ends the process, each is loaded
    alone, and then all that can be.
    """
    together = _loaded(selection, interpreter)
    if not isinstance(together, str):
        return together
    named = _loaded(selection, interpreter, only_names=True)
    if isinstance(named, str):
        return [Row("", errors=(f"plugins can't be listed: {named}",))]
    names = [row.plugin for row in named]
    alone = {name: _loaded(msgspec.structs.replace(selection, only=(name,)), interpreter) for name in names}
    whole = tuple(name for name, found in alone.items() if not isinstance(found, str))
    rows: list[Row] = []
    for name, found in alone.items():
        rows.extend([Row(name, errors=(found,))] if isinstance(found, str) else found)
    again = _loaded(msgspec.structs.replace(selection, only=whole), interpreter)
    if not isinstance(again, str):
        rows.extend(again)
    # The last row of a plugin counts: each process tells of those that are not installed, and names of handlers that
    # two plugins have are seen only when both are loaded.
    return list({row.plugin: row for row in rows}.values())


def _loaded(selection: Selection, interpreter: Interpreter, *, only_names: bool = False) -> list[Row] | str:
    """Returns the rows of what another process has loaded, or what ended it."""
    with tempfile.TemporaryDirectory(prefix="gowork-plugins-") as folder:
        answer = Path(folder, "answer")
        told = msgspec.json.encode(_Request(selection, str(answer), only_names)).decode()
        # A group of its own, so that children of a plugin end with it. What plugins print is not the list.
        process = subprocess.Popen(
            [interpreter.executable, "-P", "-m", __name__, told],
            env=interpreter.variables(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            ended = in_words(process.wait(LOAD_SECONDS_MAX))
        except subprocess.TimeoutExpired:
            ended = f"it took longer than {LOAD_SECONDS_MAX:g} s"
        finally:
            end_group(process)
        if answer.exists():
            return msgspec.json.decode(answer.read_bytes(), type=list[Row])
        return f"it ends the process that loads it ({ended})"


def main() -> None:
    """Loads what the argument says, and writes the rows."""
    request = msgspec.json.decode(sys.argv[1], type=_Request)
    if request.selection.imports:
        add_search_path(os.getcwd())
    if request.only_names:
        rows = [Row(name) for name in names_of(request.selection)]
    else:
        loaded = load(request.selection)
        rows = [_row(loaded, plugin) for plugin in loaded.plugins]
        known = {row.plugin for row in rows}
        rows += [Row(error.plugin, errors=(error.reason,)) for error in loaded.errors if error.plugin not in known]
    answer = Path(request.answer)
    # Whole or not at all, because a thread of a plugin may end the process meanwhile.
    unfinished = answer.with_suffix(".new")
    unfinished.write_bytes(msgspec.json.encode(rows))
    unfinished.rename(answer)


def _row(loaded: Loaded, plugin: PluginInfo) -> Row:
    handlers = [loaded.handlers[handler] for handler in plugin.handlers if handler in loaded.handlers]
    return Row(
        plugin.name,
        plugin.version,
        [
            HandlerRow(
                name=handler.name,
                isolation=handler.options.isolation.value,
                default=handler is loaded.default,
                time_limit_ms=handler.options.time_limit_ms,
                max_attempts=handler.options.retry.max_attempts if handler.options.retry is not None else None,
                summary=_summary(handler.function.__doc__),
            )
            for handler in handlers
        ],
        list(plugin.hooks),
        list(plugin.errors),
    )


def _summary(text: str | None) -> str:
    """Returns the first sentence of a docstring, in one line."""
    return " ".join((text or "").split()).partition(". ")[0].rstrip(".")


if __name__ == "__main__":
    main()
