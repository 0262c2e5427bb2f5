"""Suggests known names for an unknown one, which may be mistyped."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice

#: How many known names are compared with the unknown one, and how many are suggested.
_COMPARED_MAX = 2_000
_OFFERED_MAX = 3


def meant(name: str, known: Iterable[str]) -> str:
    """Returns the end of an error message, `; did you mean 'x'?`; empty when no known name is similar."""
    near = get_close_matches(name, list(islice(known, _COMPARED_MAX)), n=_OFFERED_MAX)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""
