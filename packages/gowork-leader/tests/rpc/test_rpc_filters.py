"""What filter expressions mean, character by character."""

from __future__ import annotations

import pytest

from gowork.leader._rpc.filters import parse_filter, predicate_of
from gowork.leader.store.protocol import Query


@pytest.mark.parametrize(
    ("text", "query"),
    [
        ("id = rep*", Query(id_prefixes=(("rep", True),))),
        ('id = "rep*"', Query(id_prefixes=(("rep", True),))),
        ('id != "rep*"', Query(id_prefixes=(("rep", False),))),
        ('id = "*"', Query(id_prefixes=(("", True),))),
        ('id = "rep**"', Query(id_prefixes=(("rep*", True),))),
        (r'id = "rep\**"', Query(id_prefixes=(("rep*", True),))),
        (r'id = "rep\*"', Query(terms=(("id", "rep*", True),))),
        (r'id = "\*"', Query(terms=(("id", "*", True),))),
        (r'id != "rep\*"', Query(terms=(("id", "rep*", False),))),
        (r'id = "rep\\*"', Query(id_prefixes=(("rep\\", True),))),
        (r'id = "rep\\\*"', Query(terms=(("id", "rep\\*", True),))),
        (r'id = "rep\\\\*"', Query(id_prefixes=(("rep\\\\", True),))),
        (r'id = "a\"b\c"', Query(terms=(("id", 'a"bc', True),))),
        (r'handler = "a\*"', Query(terms=(("handler", "a*", True),))),
        ('handler = "a*"', Query(terms=(("handler", "a*", True),))),
    ],
)
def test_escapes_are_read_once(text: str, query: Query) -> None:
    assert parse_filter(text) == query


def test_an_empty_filter_selects_everything() -> None:
    assert predicate_of(parse_filter("")) is not None
    assert parse_filter("") == Query()
