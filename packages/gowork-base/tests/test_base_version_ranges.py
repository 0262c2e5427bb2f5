"""Which texts are ranges of versions, and which versions are within them."""

from __future__ import annotations

import pytest

from gowork.base.version_ranges import fault_of, is_within
from gowork.proto.limits import PLUGIN_RANGE_BYTES_MAX


@pytest.mark.parametrize("wanted", [">=1.2,<2", " >= 1.2 , < 2 ", "~=1.4", "==1.4.*", "!=1.3", "==1.0+local", "==1!2"])
def test_specifiers_of_pep_440_are_ranges(wanted: str) -> None:
    assert fault_of(wanted) == ""


@pytest.mark.parametrize(
    "wanted", ["1.2", ">=", ">=x", ">1 <2", "", " ", ",", "latest", "^1.2", ">=1.2\n", ">=1\ud800"]
)
def test_anything_else_is_none_and_the_fault_shows_how_to_write_one(wanted: str) -> None:
    assert "'>=1.2,<2'" in fault_of(wanted)
    assert not is_within("1.5", wanted)


def test_a_version_alone_is_told_what_was_meant() -> None:
    assert "write '==1.2' for this version alone, or a range as in" in fault_of(" 1.2")
    assert "write a range as in" in fault_of("latest")


def test_a_range_has_a_length_that_its_fault_names() -> None:
    longest = ",".join(["!=1.1"] * 21)
    assert len(longest) < PLUGIN_RANGE_BYTES_MAX
    assert fault_of(longest) == ""
    assert fault_of(">=1" * 100) == f"has 300 bytes; the limit is {PLUGIN_RANGE_BYTES_MAX}"
    assert fault_of("ü" * PLUGIN_RANGE_BYTES_MAX).startswith(f"has {2 * PLUGIN_RANGE_BYTES_MAX} bytes")


@pytest.mark.parametrize(
    ("version", "wanted", "within"),
    [
        ("1.2", ">=1.2,<2", True),
        ("1.1.9", ">=1.2,<2", False),
        ("2.0", ">=1.2,<2", False),
        # By their order, not as strings.
        ("1.10", ">=1.9", True),
        ("1.0.0", "==1", True),
        ("1.4.7", "==1.4.*", True),
        ("1.2.0+local", ">=1.2,<2", True),
        # A worker runs the pre-release that is installed there.
        ("2.0rc1", ">=1.2", True),
        ("2.0rc1", ">=2", False),
        ("2.0rc1", ">=1.2,<2", False),
        ("1.3.dev4", ">=1.2", True),
        # What is no version is within no range, not even of itself.
        ("", ">=0", False),
        ("unknown", ">=0", False),
        ("unknown", "!=1", False),
        ("unknown", "===unknown", False),
    ],
)
def test_versions_are_within_a_range_by_pep_440(version: str, wanted: str, within: bool) -> None:
    assert is_within(version, wanted) is within
