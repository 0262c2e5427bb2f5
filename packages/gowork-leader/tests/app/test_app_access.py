"""What a leader's process says of whom it lets in, and which of its files about that it reads again."""

from __future__ import annotations

import urllib.error
import urllib.request
from pathlib import Path

import pytest
from leader_process import PATIENCE, RunningLeader, running
from tls_authority import Authority

from gowork.base.tls_files import TlsFiles

NOBODY = "asks nobody who calls"
ASKS = "asks who calls"
NO_LEADER = "callback workers that want certificates take no calls from this leader"


def options(files: TlsFiles) -> list[str]:
    given = {"cert": files.cert, "key": files.key, "client-ca": files.client_ca}
    return [f"--tls-{name}={path}" for name, path in given.items() if path]


def lines_of(folder: Path, *arguments: str) -> dict[str, str]:
    """The lines of a leader's start that are about access: {which: line}."""
    with running(folder, *arguments) as leader:
        _, log = leader.stop()
    found = {
        words: line for words in (NOBODY, ASKS, NO_LEADER) for line in log.splitlines() if words in line.split("=")[0]
    }
    assert sum(words in log for words in (NOBODY, ASKS, NO_LEADER)) == len(found), log
    return found


def test_a_leader_says_that_it_asks_nobody(tmp_path: Path) -> None:
    said = lines_of(tmp_path)
    assert said.keys() == {NOBODY}
    assert "whoever reaches a port may do everything" in said[NOBODY]
    assert "tls=False" in said[NOBODY]


def test_a_leader_that_asks_for_no_certificates_says_that_it_asks_nobody_by_tls(tmp_path: Path) -> None:
    said = lines_of(tmp_path, *options(Authority(tmp_path).server()))
    assert said.keys() == {NOBODY}
    assert "tls=True" in said[NOBODY]


def test_a_leader_says_by_what_it_knows_callers(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    (tmp_path / "access.toml").write_text("# nobody yet")
    said = lines_of(tmp_path, *options(authority.server(client_ca=authority.file)))
    assert said.keys() == {ASKS}
    assert "certificates=True" in said[ASKS]
    assert "access.toml" not in said[ASKS]
    said = lines_of(tmp_path, f"--access={tmp_path}/access.toml")
    assert said.keys() == {ASKS}
    assert "certificates=False" in said[ASKS]
    assert f"{tmp_path}/access.toml" in said[ASKS]


@pytest.mark.parametrize("revoked", [False, True])
def test_a_leader_whose_certificate_is_no_leader_s_warns(tmp_path: Path, revoked: bool) -> None:
    authority = Authority(tmp_path)
    (tmp_path / "access.toml").write_text("revoked = ['l1']" if revoked else "# nobody")
    files = authority.server("l1", client_ca=authority.file, role="leader" if revoked else "worker")
    said = lines_of(tmp_path, f"--access={tmp_path}/access.toml", *options(files))
    assert said.keys() == {ASKS, NO_LEADER}
    assert " warning " in said[NO_LEADER]
    assert "give it a certificate with the URI gowork://leader/NAME" in said[NO_LEADER]


def status_of(leader: RunningLeader, token: str) -> int:
    request = urllib.request.Request(f"http://{leader.http}/metrics", headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_a_new_token_for_metrics_is_used_without_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("old\n")
    with running(tmp_path, f"--http-token-file={path}") as leader:
        assert [status_of(leader, token) for token in ("old", "new")] == [200, 401]
        path.write_text("new\n")
        assert [status_of(leader, token) for token in ("old", "new")] == [401, 200]
        # Without a token in the file, the last one counts: an empty one must let nobody in.
        path.write_text("\n")
        assert [status_of(leader, token) for token in ("", "new")] == [401, 200]
