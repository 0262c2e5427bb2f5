"""What the worker's own environment and those of --plugin-env offer together, under one name.

No handler may be in two of them: nobody could say which one runs a task.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from gowork.worker._core.selection import NOT_INSTALLED, OF_SELECTION
from gowork.worker._runner import messages

#: How the worker's own environment is called.
_OWN = "the worker's own environment"
#: The most handlers that a text names.
_NAMED_MAX = 5


def clashes(own: messages.Ready, others: Mapping[str, messages.Ready]) -> str:
    """Returns which handlers several environments offer, and what to do; empty when none is.

    Args:
        own: what the worker's own environment offers.
        others: {environment: what it offers}.
    """
    offering: dict[str, list[str]] = {}
    for place, ready in {_OWN: own, **others}.items():
        for note in ready.handlers:
            offering.setdefault(note.name, []).append(f"{place} ({_plugin(note)})")
    doubled = [f"{name!r}: {' and '.join(places)}" for name, places in offering.items() if len(places) > 1]
    if not doubled:
        return ""
    named = "; ".join(doubled[:_NAMED_MAX]) + (f"; and {more} more" if (more := len(doubled) - _NAMED_MAX) > 0 else "")
    return (
        f"plugin_envs: several environments offer the same handler. {named}. Leave the plugin in one of them, or "
        "choose plugins by --plugin"
    )


def merged(own: messages.Ready, others: Mapping[str, messages.Ready]) -> messages.Ready:
    """Returns what all of them offer.

    Args:
        own: what the worker's own environment offers.
        others: {environment: what it offers}.
    """
    if not others:
        return own
    everyone = [own, *others.values()]
    notes = [*own.handlers]
    taken = {note.name for note in notes}
    for place, ready in others.items():
        fresh = [note for note in ready.handlers if note.name not in taken]
        taken.update(note.name for note in fresh)
        notes += [msgspec.structs.replace(note, environment=place) for note in fresh]
    errors = [error for error in own.plugin_errors if not _is_elsewhere(error, everyone)]
    for place, ready in others.items():
        errors += [f"{place}: {error}" for error in ready.plugin_errors if not is_absence(error)]
    return msgspec.structs.replace(
        own,
        handlers=tuple(_described(notes)),
        default_handler=next((ready.default_handler for ready in everyone if ready.default_handler), ""),
        plugin_errors=tuple(errors),
    )


def _described(notes: list[messages.HandlerNote]) -> list[messages.HandlerNote]:
    """Returns the notes, with as many descriptions as one worker may have: each environment has kept to that alone."""
    left = messages.DESCRIPTIONS_BYTES_MAX
    found = []
    for note in notes:
        left -= len(note.description)
        found.append(note if left >= 0 else msgspec.structs.replace(note, description=""))
    return found


def _plugin(note: messages.HandlerNote) -> str:
    return f"{note.plugin} {note.plugin_version}".rstrip()


def is_absence(error: str) -> bool:
    """Whether a chosen plugin, or a handler, is not here. Another environment may have it."""
    return error.endswith(NOT_INSTALLED) or error.startswith(OF_SELECTION)


def _is_elsewhere(error: str, everyone: list[messages.Ready]) -> bool:
    return is_absence(error) and not all(error in ready.plugin_errors for ready in everyone)
