"""What a postgresql:// URL may be."""

from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict

from gowork.leader.log import LogError
from gowork.leader.log._postgresql.server import place_of


def test_a_url_is_libpqs_and_names_a_schema() -> None:
    conninfo, schema = place_of("postgresql://me:p%40ss@a:5432,b:5433/db?schema=gowork_2&sslmode=require")
    found = conninfo_to_dict(conninfo)
    assert schema == "gowork_2"
    assert {name: found[name] for name in ("user", "password", "host", "port", "dbname", "sslmode")} == {
        "user": "me",
        "password": "p@ss",
        "host": "a,b",
        "port": "5432,5433",
        "dbname": "db",
        "sslmode": "require",
    }


def test_the_schema_is_gowork_where_none_is_named() -> None:
    assert [place_of(url)[1] for url in ("postgresql://h/db", "postgresql:///", "postgres://h/db?sslmode=disable")] == [
        "gowork"
    ] * 3


def test_of_several_hosts_the_primary_is_used_unless_the_url_says_otherwise() -> None:
    assert conninfo_to_dict(place_of("postgresql://a,b/db")[0])["target_session_attrs"] == "read-write"
    other = place_of("postgresql://a,b/db?target_session_attrs=primary&connect_timeout=9")[0]
    assert conninfo_to_dict(other)["target_session_attrs"] == "primary"
    assert conninfo_to_dict(other)["connect_timeout"] == "9"


def test_options_of_the_url_and_of_the_environment_are_kept_beside_the_bound_for_locks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c geqo=off")
    plain, own = (place_of(f"postgresql://h/db{query}")[0] for query in ("", "?options=-c%20work_mem%3D1MB"))
    assert conninfo_to_dict(plain)["options"] == "-c lock_timeout=900ms -c geqo=off"
    assert conninfo_to_dict(own)["options"] == "-c lock_timeout=900ms -c work_mem=1MB"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://h/db?schema=a b", "schema must have letters"),
        ("postgresql://h/db?schema=", "schema must have letters"),
        ("postgresql://h/db?schema=a;b", "schema must have letters"),
        (f"postgresql://h/db?schema={'x' * 64}", "schema must have letters"),
        ("postgresql://h/db?nonsense=1", "is no URL of PostgreSQL"),
        ("postgresql://me:50%@h/db", "written as %40 and %25"),
    ],
)
def test_a_url_that_makes_no_sense_is_refused(url: str, message: str) -> None:
    with pytest.raises(LogError, match=message):
        place_of(url)
