"""The two programs stop before they build or upload where something is wrong, and say all of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import run_publish
import run_release
from loopback_index import CREDENTIALS, loopback_index
from release_files import make_wheel
from release_papers import package_of

ROOT = Path(__file__).parents[2]


def refuse(*_: object) -> None:
    raise AssertionError("it went on")


@pytest.fixture(autouse=True)
def nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_release, "build", refuse)


def test_a_package_must_be_named_unless_all_are_rehearsed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_release.main([])
    assert ended.value.code == 2
    assert "name a package, or give --rehearse" in capsys.readouterr().err


def test_an_unknown_package_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_release.main(["gowork-lead"]) == 1
    assert "'gowork-lead' is no package of this repository; it has " in capsys.readouterr().err


def test_what_is_wrong_with_each_package_is_told_at_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_release, "faults", lambda _, package: [f"{package.version} is odd", "no tag"])
    assert run_release.main(["gowork-proto", "gowork-base"]) == 1
    version = package_of(ROOT, "gowork-proto").version
    told = capsys.readouterr().err
    assert f"gowork-proto: {version} is odd\ngowork-proto: no tag\ngowork-base: " in told


def test_a_published_package_is_told_of_and_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = package_of(ROOT, "gowork-proto")
    name = make_wheel(tmp_path / f"gowork-proto-{package.version}", "gowork-proto", package.version)
    monkeypatch.setenv("UV_PUBLISH_PASSWORD", "secret")
    with loopback_index(tmp_path / "index") as index:
        where = ["--from", str(tmp_path), "--upload-url", index.upload_url, "--simple-url", index.simple_url]
        for told in (f"uploaded {name}", "the index has all of it"):
            assert run_publish.main([package.name, *where, *CREDENTIALS[:2]]) == 0
            assert capsys.readouterr().out == f"gowork-proto {package.version}: {told}\n"
        assert run_publish.main(["gowork-base", *where, *CREDENTIALS[:2]]) == 1
    assert "SHA256SUMS is missing; build with `nox -s release -- PACKAGE`" in capsys.readouterr().err


@pytest.mark.longer
def test_a_trusted_publisher_needs_no_password_and_no_other_may_take_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = package_of(ROOT, "gowork-proto")
    make_wheel(tmp_path / f"gowork-proto-{package.version}", "gowork-proto", package.version)
    # Where GitHub vouches for nobody, uv says so and uploads nothing.
    for variable in ("ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_ID_TOKEN_REQUEST_TOKEN", "GITHUB_ACTIONS"):
        monkeypatch.delenv(variable, raising=False)
    with loopback_index(tmp_path / "index") as index:
        where = ["--from", str(tmp_path), "--upload-url", index.upload_url, "--simple-url", index.simple_url]
        assert run_publish.main([package.name, *where]) == 1
    assert "rusted publishing" in capsys.readouterr().err
    assert list((tmp_path / "index").iterdir()) == []
