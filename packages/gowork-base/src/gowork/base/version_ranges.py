"""Ranges of versions that tasks ask for: specifiers of PEP 440, as in ">=1.2,<2", which `packaging` reads.

Pre-releases count by their order, because a worker runs what is installed there: 2.0rc1 is within ">=1.2". PEP 440
keeps it out of "<2". https://peps.python.org/pep-0440/#version-specifiers
"""

from __future__ import annotations

from functools import lru_cache

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion, Version

from gowork.proto.limits import PLUGIN_RANGE_BYTES_MAX

#: How many ranges, and how many pairs of a range and a version, are remembered.
RANGES_KEPT_MAX = 1_000
PAIRS_KEPT_MAX = 16_000


def fault_of(wanted: str) -> str:
    """Returns what is wrong with a range; empty when it can be read."""
    size = len(wanted.encode(errors="replace"))
    if size > PLUGIN_RANGE_BYTES_MAX:
        return f"has {size} bytes; the limit is {PLUGIN_RANGE_BYTES_MAX}"
    if _read(wanted) is not None:
        return ""
    alone = f"'=={wanted.strip()}' for this version alone, or " if _version(wanted) is not None else ""
    return f"is {wanted!r}, which is no range of versions; write {alone}a range as in '>=1.2,<2' or '~=1.4' (PEP 440)"


@lru_cache(maxsize=PAIRS_KEPT_MAX)
def is_within(version: str, wanted: str) -> bool:
    """Whether a version is within a range. A text that can't be read is no version, and within no range."""
    specifiers, parsed = _read(wanted), _version(version)
    return specifiers is not None and parsed is not None and specifiers.contains(parsed, prereleases=True)


def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except InvalidVersion:
        return None


@lru_cache(maxsize=RANGES_KEPT_MAX)
def _read(wanted: str) -> SpecifierSet | None:
    if not wanted.isprintable():
        return None
    try:
        specifiers = SpecifierSet(wanted)
    except InvalidSpecifier:
        return None
    # Blanks and commas alone would be a range that has every version.
    return specifiers if len(specifiers) else None
