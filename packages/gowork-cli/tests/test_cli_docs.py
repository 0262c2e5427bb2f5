"""The command `gowork docs`: the address of each page of this version, and what opens it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gowork.cli import __version__
from gowork.cli.root import cli

SITE = "https://docs.example.org/gowork"


@pytest.fixture(autouse=True)
def site(monkeypatch: pytest.MonkeyPatch) -> None:
    """The site has an address of its own."""
    monkeypatch.setenv("GOWORK_DOCS", f"{SITE}/")


def docs(*words: str) -> Result:
    return CliRunner().invoke(cli, ["docs", *words])


def built(folder: Path, *pages: str) -> Path:
    for page in pages:
        (folder / page).parent.mkdir(parents=True, exist_ok=True)
        (folder / page).touch()
    return folder


@pytest.mark.parametrize(
    ("page", "path"),
    [
        ("index", "index.html"),
        ("tutorial", "docs/tutorial.html"),
        ("docs/tutorial.md", "docs/tutorial.html"),
        ("hooks.html", "docs/hooks.html"),
        ("#quickstart", "index.html#quickstart"),
        ("operating#upgrade", "docs/operating.html#upgrade"),
        ("operating#a place", "docs/operating.html#a%20place"),
        ("commands", "reference/commands.html"),
        ("gowork-worker", "packages/gowork-worker/README.html"),
        ("gowork.worker", "reference/api/gowork.worker.html"),
        ("Architecture", "ARCHITECTURE.html"),
    ],
)
def test_the_address_of_a_page_has_the_installed_version(page: str, path: str) -> None:
    assert docs(page, "--print").stdout == f"{SITE}/{__version__}/{path}\n"


def test_without_a_setting_the_site_is_on_the_web(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOWORK_DOCS", "")
    assert docs("--print").stdout == f"https://gowork.github.io/gowork/{__version__}/index.html\n"


def test_json_has_the_address_and_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webbrowser.open", lambda url: pytest.fail(f"opened {url}"))
    expected = {"version": __version__, "page": "tls", "url": f"{SITE}/{__version__}/docs/tls.html"}
    assert json.loads(docs("tls", "-o", "json").stdout) == expected


def test_an_unknown_page_is_refused_with_the_nearest() -> None:
    result = docs("tutorail")
    assert result.exit_code == 2
    assert "no page 'tutorail'; did you mean 'tutorial'?; gowork docs --list names all pages" in result.stderr


def test_all_pages_are_listed() -> None:
    listed = [json.loads(line) for line in docs("--list", "-o", "jsonl").stdout.splitlines()]
    assert {"index", "tutorial", "glossary", "errors"} <= {each["page"] for each in listed}
    assert len(docs("--list").stdout.splitlines()) == len(listed) + 1
    assert docs("--list", "tls").exit_code == 2


@pytest.mark.parametrize("version", ["", __version__], ids=["one", "several"])
def test_a_built_site_is_opened_from_its_folder(tmp_path: Path, version: str) -> None:
    built(tmp_path / version, "index.html", "docs/tls.html")
    found = docs("tls#files", "--path", str(tmp_path), "--print")
    assert found.stdout == (tmp_path / version / "docs/tls.html").resolve().as_uri() + "#files\n"


def test_a_folder_of_versions_has_the_page_of_this_one(tmp_path: Path) -> None:
    # Its own first page lists the versions.
    built(tmp_path, "index.html", f"{__version__}/index.html")
    found = docs("--path", str(tmp_path), "--print")
    assert found.stdout == (tmp_path / __version__ / "index.html").resolve().as_uri() + "\n"


def test_a_folder_without_this_version_is_refused_with_those_that_it_has(tmp_path: Path) -> None:
    built(tmp_path, "0.0.1/index.html", "0.0.1/docs/tls.html", "0.0.2/index.html")
    result = docs("tls", "--path", str(tmp_path))
    assert result.exit_code == 2
    assert f"has no docs/tls.html of version {__version__}; it has 0.0.1, 0.0.2; nox -s docs builds" in result.stderr


@pytest.mark.parametrize(
    "site",
    [
        "ftp://example.org",
        "https://",
        "no/folder",
        "https://[::1",
        "https://docs:eighty",
        "https://docs/?a=1",
        "https://docs/#a",
    ],
)
def test_what_is_no_site_is_refused(site: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOWORK_DOCS", site)
    result = docs("tls", "--print")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Usage:" in result.stderr


def test_the_page_is_opened_in_the_browser_that_the_user_has_chosen(tmp_path: Path) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    browser.chmod(0o755)
    command = [sys.executable, "-m", "gowork", "docs", "tutorial"]
    done = subprocess.run(command, env={**os.environ, "BROWSER": f"{browser} %s"}, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "opened").read_text() == f"{SITE}/{__version__}/docs/tutorial.html\n"


def test_without_a_browser_the_address_is_told(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "gowork", "docs", "tutorial"]
    environment = {"PATH": str(tmp_path), "HOME": str(tmp_path), "GOWORK_DOCS": SITE}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"no browser could be opened; the page is at {SITE}/{__version__}/docs/tutorial.html" in done.stderr
    assert "--path DIR, or GOWORK_DOCS=DIR, takes a built site instead" in done.stderr
