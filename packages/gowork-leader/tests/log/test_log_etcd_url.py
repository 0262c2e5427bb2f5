"""What an etcd:// URL and the variables beside it may be."""

from __future__ import annotations

from pathlib import Path

import pytest

from gowork.leader.log._etcd.endpoints import endpoints_of
from gowork.leader.log.protocol import LogError


def test_a_url_names_members_and_a_prefix() -> None:
    endpoints = endpoints_of("etcd://a:2379,b:2380,[::1]:2379,a:2379/prod/gowork/", {})
    assert endpoints.addresses == ("a:2379", "b:2380", "[::1]:2379")
    assert endpoints.prefix == "prod/gowork"
    assert endpoints.compacts


def test_the_prefix_is_gowork_where_none_is_given() -> None:
    assert endpoints_of("etcd://a:2379", {}).prefix == "gowork"
    assert endpoints_of("etcd://a:2379/", {}).prefix == "gowork"


def test_a_shared_etcd_is_not_compacted_where_that_is_asked_for() -> None:
    assert not endpoints_of("etcd://a:2379/x?compact=no", {}).compacts
    assert endpoints_of("etcd://a:2379/x?compact=yes", {}).compacts


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("etcd://", "names no etcd"),
        ("etcd:///prefix", "names no etcd"),
        ("etcd://a", "is not HOST:PORT"),
        ("etcd://a:2379,b/x", "is not HOST:PORT"),
        ("etcd://root:secret@a:2379/x", "leave user and password out of the URL"),
        ("etcd://a:2379/x?compact=never", "compact=yes or compact=no"),
        ("etcd://a:2379/x?ttl=5", "the only option is"),
    ],
)
def test_a_url_that_makes_no_sense_is_refused(url: str, said: str) -> None:
    with pytest.raises(LogError, match=said) as refused:
        endpoints_of(url, {})
    assert "secret" not in str(refused.value)


def test_user_and_files_come_from_variables(tmp_path: Path) -> None:
    for name in ("ca", "cert", "key"):
        (tmp_path / name).write_text(f"the {name}")
    variables = {f"GOWORK_ETCD_{name.upper()}": str(tmp_path / name) for name in ("ca", "cert", "key")}
    variables |= {"GOWORK_ETCD_USER": "gowork", "GOWORK_ETCD_PASSWORD": "secret"}
    endpoints = endpoints_of("etcd://a:2379", variables)
    assert (endpoints.ca, endpoints.certificate, endpoints.key) == (b"the ca", b"the cert", b"the key")
    assert (endpoints.user, endpoints.password) == ("gowork", "secret")


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"GOWORK_ETCD_CERT": "/c", "GOWORK_ETCD_CA": "/ca"}, "both GOWORK_ETCD_CERT and GOWORK_ETCD_KEY"),
        ({"GOWORK_ETCD_KEY": "/k", "GOWORK_ETCD_CA": "/ca"}, "both GOWORK_ETCD_CERT and GOWORK_ETCD_KEY"),
        ({"GOWORK_ETCD_CERT": "/c", "GOWORK_ETCD_KEY": "/k"}, "needs GOWORK_ETCD_CA"),
        ({"GOWORK_ETCD_PASSWORD": "secret"}, "GOWORK_ETCD_USER is not"),
        ({"GOWORK_ETCD_CA": "/nowhere/ca.pem"}, "/nowhere/ca.pem can't be read: No such file"),
    ],
)
def test_variables_that_make_no_sense_are_refused(variables: dict[str, str], said: str) -> None:
    with pytest.raises(LogError, match=said) as refused:
        endpoints_of("etcd://a:2379", variables)
    assert "secret" not in str(refused.value)
