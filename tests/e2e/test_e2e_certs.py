"""What `gowork certs` makes is used by real processes, and their metrics tell when it expires or is refused."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest
from clusters import COMMANDS, RunningLeader, first_line, start, start_leader, stopped_cleanly, tls_options
from msgspec.structs import replace
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from test_e2e_tls import done, waited_for

from gowork.base.tls_files import TlsFiles
from gowork.client import Client

#: The deadline of each command, in seconds.
PATIENCE = 60.0
EXPIRY = "gowork_tls_certificate_expiry_timestamp_seconds"


def gowork(*arguments: str, leader: str = "") -> str:
    """Runs a command, which must succeed, and returns its output."""
    return subprocess.run(
        [str(COMMANDS / "gowork"), *arguments],
        env={**os.environ, "GOWORK_LEADER": leader},
        stdout=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        check=True,
    ).stdout


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    folder = tmp_path / "certs"
    gowork("certs", "init", str(folder))
    return folder


def make(certs: Path, role: str, name: str, *more: str) -> TlsFiles:
    record: dict[str, Any] = json.loads(gowork("certs", "make", str(certs), role, name, *more, "--output=json"))
    return TlsFiles(certs / "ca.pem", record["cert_file"], record["key_file"])


def leading(folder: Path, certs: Path) -> RunningLeader:
    files = make(certs, "leader", "leader-1")
    return start_leader(folder, more=tls_options(replace(files, client_ca=files.ca)))


def shown(address: str) -> dict[str, float]:
    """What a page of metrics says of certificates: {file: when it expires}, and whether new files are refused."""
    accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
    request = urllib.request.Request(f"http://{address}/metrics", headers=accept)
    with urllib.request.urlopen(request, timeout=PATIENCE) as page:
        families = {family.name: family for family in text_string_to_metric_families(page.read().decode())}
    ends = {sample.labels["file"]: sample.value for sample in families[EXPIRY].samples}
    (refused,) = families["gowork_tls_refused"].samples
    return {**ends, "refused": refused.value}


@pytest.mark.longer
def test_leader_workers_and_clients_work_with_what_was_made(tmp_path: Path, certs: Path) -> None:
    leader = leading(tmp_path, certs)
    with stopped_cleanly(leader.process):
        files = make(certs, "client,admin", "ada")
        told = gowork(*tls_options(files), "certs", "check", leader.cluster)
        assert "calls can be made there" in told
        told = gowork(*tls_options(files), "members", "--output=json", leader=leader.scheduler)
        assert json.loads(told) == []
        called = ["--listen=127.0.0.1:0", f"--scheduler={leader.scheduler}", "--default-handler=echo"]
        for name, hosts, more in (("joins", [], []), ("is-called", ["--host=127.0.0.1"], called)):
            folder = tmp_path / name
            folder.mkdir()
            worker = tls_options(make(certs, "worker", name, *hosts))
            place = f"--leader={leader.cluster}"
            process = start("gowork-worker", place, "--runners=1", "--print-ready", *worker, *more, folder=folder)
            with stopped_cleanly(process):
                first_line(process, folder / "gowork-worker.log")
                with Client(leader.scheduler, tls=files) as client:
                    # The original contract has no results.
                    if more:
                        assert client.schedule("p").result(timeout=PATIENCE) is None
                    else:
                        assert done(client, "p") == "p"


@pytest.mark.longer
def test_a_leader_s_metrics_tell_when_certificates_expire_and_that_new_ones_are_refused(
    tmp_path: Path, certs: Path
) -> None:
    leader = leading(tmp_path, certs)
    log = tmp_path / "gowork-leader.log"
    with stopped_cleanly(leader.process):
        seen = shown(leader.http)
        assert seen.keys() == {"cert", "ca", "client_ca", "refused"}
        assert (seen["ca"], seen["refused"]) == (seen["client_ca"], 0)
        assert seen["cert"] < seen["ca"]
        # The key of another certificate.
        os.replace(make(certs, "leader", "other").key or "", certs / "leader-1-key.pem")
        waited_for(log, "new certificates not used")
        assert shown(leader.http) == {**seen, "refused": 1}
        make(certs, "leader", "leader-1", "--days=2", "--force")
        waited_for(log, "new certificates are used")
        renewed = shown(leader.http)
        assert (renewed["cert"] < seen["cert"], renewed["refused"]) == (True, 0)


@pytest.mark.longer
def test_a_callback_worker_calls_its_leader_with_new_certificates(tmp_path: Path, certs: Path) -> None:
    fresh = tmp_path / "fresh"
    gowork("certs", "init", str(fresh))
    trusted, certificate, key = (tmp_path / name for name in ("trusted.pem", "w.pem", "w-key.pem"))
    trusted.write_bytes((certs / "ca.pem").read_bytes())
    own = TlsFiles(trusted, certificate, key)

    def show(files: TlsFiles) -> None:
        for source, target in ((files.cert, certificate), (files.key, key)):
            target.write_bytes(Path(source or "").read_bytes())

    show(make(certs, "worker", "w", "--host=127.0.0.1"))
    leader = leading(tmp_path, certs)
    place = [f"--leader={leader.cluster}", "--listen=127.0.0.1:0", f"--scheduler={leader.scheduler}"]
    more = ["--runners=1", "--default-handler=echo", "--print-ready", "--http-listen=127.0.0.1:0", "--name=w"]
    process = start("gowork-worker", *place, *more, *tls_options(own), folder=tmp_path)
    with stopped_cleanly(process):
        http = json.loads(first_line(process, tmp_path / "gowork-worker.log"))["http"]
        before = shown(http)["cert"]
        trusted.write_bytes((certs / "ca.pem").read_bytes() + (fresh / "ca.pem").read_bytes())
        show(make(fresh, "worker", "w", "--host=127.0.0.1", "--days=2"))
        while shown(http)["cert"] == before:
            pass  # A page takes its time.
        with stopped_cleanly(leader.process):
            pass
        # It trusts the new authority alone.
        files = make(fresh, "leader", "leader-1")
        addresses = (leader.cluster, leader.scheduler, leader.http)
        again = start_leader(tmp_path, *addresses, more=tls_options(replace(files, client_ca=files.ca)))
        with (
            stopped_cleanly(again.process),
            Client(again.scheduler, tls=make(fresh, "client", "web"), timeout=PATIENCE) as client,
        ):
            client.schedule("p").result(timeout=PATIENCE)
            # The leader goes last, so that the worker can say goodbye.
            process.terminate()
            assert process.wait(PATIENCE) == 0


@pytest.mark.longer
def test_a_worker_takes_new_certificates_while_its_session_goes_on(tmp_path: Path, certs: Path) -> None:
    leader = leading(tmp_path, certs)
    log = tmp_path / "gowork-worker.log"
    with stopped_cleanly(leader.process):
        more = ["--runners=1", "--print-ready", "--http-listen=127.0.0.1:0", *tls_options(make(certs, "worker", "w"))]
        process = start("gowork-worker", f"--leader={leader.cluster}", *more, folder=tmp_path)
        with stopped_cleanly(process):
            http = json.loads(first_line(process, log))["http"]
            seen = shown(http)
            assert seen.keys() == {"cert", "ca", "refused"}
            make(certs, "worker", "w", "--days=2", "--force")
            waited_for(log, "new certificates are used")
            assert (shown(http)["cert"] < seen["cert"], shown(http)["refused"]) == (True, 0)
            assert log.read_text().count("session open") == 1
