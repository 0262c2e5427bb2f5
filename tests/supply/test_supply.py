"""What the audit says of licences, and that it never passes because nobody answered."""

from __future__ import annotations

import json
import os
import sys
import tomllib
from pathlib import Path

import pytest
import run_audit

RULES = tomllib.loads(run_audit.ALLOWED.read_text())


def package(licence: str, name: str = "some") -> dict[str, str]:
    return {"Name": name, "Version": "1.0", "License": licence}


@pytest.mark.parametrize(
    "licence",
    ["MIT", "Apache-2.0 OR BSD-3-Clause", "Apache-2.0 AND BSD-2-Clause", "Apache Software License; MIT License"],
)
def test_licences_that_are_listed_are_allowed(licence: str) -> None:
    assert run_audit.licence_faults([package(licence)], RULES) == []


@pytest.mark.parametrize("licence", ["GPL-3.0-only", "MIT AND GPL-3.0-only", "MIT; SSPL", "UNKNOWN", ""])
def test_a_licence_of_which_a_part_is_not_listed_is_a_fault(licence: str) -> None:
    (fault,) = run_audit.licence_faults([package(licence)], RULES)
    assert fault.startswith(f"some has the licence {licence!r}")


def test_an_exception_is_of_one_package_alone() -> None:
    assert run_audit.licence_faults([package("MPL-2.0", "certifi")], RULES) == []
    assert run_audit.licence_faults([package("MPL-2.0")], RULES) != []


def programs(folder: Path, monkeypatch: pytest.MonkeyPatch, vulns: list[str] | None) -> None:
    """Puts programs on PATH that play the tools. Without `vulns` the service answers nothing."""
    answer = json.dumps({"dependencies": [{"name": "urllib3", "vulns": vulns}]})
    for name, code in (
        ("pip-licenses", f"print({json.dumps([package('MIT')])!r})"),
        (
            "pip-audit",
            f"import sys; out = [word[9:] for word in sys.argv if word.startswith('--output=')]\n"
            f"if out and {vulns is not None}: open(out[0], 'w').write({answer!r})",
        ),
    ):
        path = folder / name
        path.write_text(f"#!{sys.executable}\n{code}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize("vulns", [None, []])
def test_a_service_that_says_nothing_of_a_weak_version_fails_the_audit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], vulns: list[str] | None
) -> None:
    programs(tmp_path, monkeypatch, vulns)
    assert run_audit.main("python", str(tmp_path / "bill")) == 1
    assert "NOTHING WAS AUDITED" in capsys.readouterr().err


def test_a_service_that_answers_passes_what_it_knows_nothing_bad_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs(tmp_path, monkeypatch, ["PYSEC-0"])
    assert run_audit.main("python", str(tmp_path / "bill")) == 0
    assert (tmp_path / "bill").exists()
