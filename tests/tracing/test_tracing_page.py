"""The page docs/tracing.md names all attributes and variables that the code has, and no others."""

from __future__ import annotations

import re
from pathlib import Path

from gowork.base import spans, telemetry

PAGE = (Path(__file__).parents[2] / "docs/tracing.md").read_text()
#: The names of attributes: the constants in capitals whose value has a dot.
ATTRIBUTES = {value for name, value in vars(spans).items() if name.isupper() and "." in value}


def test_the_page_tells_the_attributes_that_spans_have() -> None:
    told = set(re.findall(r"`((?:messaging|gowork\.task|server|error)\.[a-z_.]+)`", PAGE))
    assert told == ATTRIBUTES


def test_the_page_names_every_variable_that_is_looked_at() -> None:
    looked_at = set(re.findall(r"\bOTEL_[A-Z_]+\b", Path(telemetry.__file__).read_text()))
    assert {name for name in looked_at if name not in PAGE} == set()
