"""What was built is published once, to a real index on this machine."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import release_index
from loopback_index import loopback_index
from packaging.version import Version
from release_build import SUMS, digest
from release_files import make_wheel
from release_index import Index
from release_papers import Package, ReleaseError, package_of
from release_publish import publish


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with a package that needs no other of it, and one that needs the first."""
    for name, needed in (("gowork-base", []), ("gowork-tried", ["gowork-base>=1.2,<1.3", "click>=8,<9"])):
        folder = tmp_path / "repository/packages" / name
        folder.mkdir(parents=True)
        text = f'[project]\nname = "{name}"\nversion = "1.2.0"\ndependencies = {needed}\n'
        (folder / "pyproject.toml").write_text(text)
    return tmp_path / "repository"


@pytest.fixture
def package(root: Path) -> Package:
    return package_of(root, "gowork-base")


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    with loopback_index(tmp_path / "index") as index:
        yield index


def test_what_was_built_is_uploaded_once(root: Path, package: Package, index: Index, tmp_path: Path) -> None:
    name = make_wheel(tmp_path / "built", "gowork-base", "1.2.0")
    assert publish(root, package, tmp_path / "built", index) == [name]
    uploaded = tmp_path / "index" / name
    assert digest(uploaded) == digest(tmp_path / "built" / name)
    when = uploaded.stat().st_mtime_ns
    assert publish(root, package, tmp_path / "built", index) == []
    assert uploaded.stat().st_mtime_ns == when


def test_a_publication_that_broke_off_is_finished(root: Path, package: Package, index: Index, tmp_path: Path) -> None:
    name = make_wheel(tmp_path / "built", "gowork-base", "1.2.0")
    publish(root, package, tmp_path / "built", index)
    second = name.replace("1.2.0-", "1.2.0-1-")
    shutil.copy(tmp_path / "built" / name, tmp_path / "built" / second)
    with (tmp_path / "built" / SUMS).open("a") as sums:
        sums.write(f"{digest(tmp_path / 'built' / second)}  {second}\n")
    assert publish(root, package, tmp_path / "built", index) == [second]


def test_a_file_that_the_index_has_with_another_digest_is_refused(
    root: Path, package: Package, index: Index, tmp_path: Path
) -> None:
    name = make_wheel(tmp_path / "built", "gowork-base", "1.2.0")
    publish(root, package, tmp_path / "built", index)
    make_wheel(tmp_path / "built", "gowork-base", "1.2.0", text="other = True")
    with pytest.raises(ReleaseError, match=f"the index has another {name}; a version is published once"):
        publish(root, package, tmp_path / "built", index)


def test_what_was_changed_after_it_was_built_is_not_uploaded(
    root: Path, package: Package, index: Index, tmp_path: Path
) -> None:
    name = make_wheel(tmp_path / "built", "gowork-base", "1.2.0")
    with (tmp_path / "built" / name).open("ab") as file:
        file.write(b"more")
    with pytest.raises(ReleaseError, match="is not what was built"):
        publish(root, package, tmp_path / "built", index)
    assert list((tmp_path / "index").iterdir()) == []


@pytest.mark.parametrize(("name", "version"), [("gowork-base", "1.1.0"), ("gowork-other", "1.2.0")])
def test_files_of_another_version_or_package_are_not_uploaded(
    root: Path, package: Package, index: Index, tmp_path: Path, name: str, version: str
) -> None:
    make_wheel(tmp_path / "built", name, version)
    with pytest.raises(ReleaseError, match=r"\.whl is no file of gowork-base 1\.2\.0"):
        publish(root, package, tmp_path / "built", index)
    assert list((tmp_path / "index").iterdir()) == []


def test_a_package_is_published_after_those_that_it_needs(root: Path, index: Index, tmp_path: Path) -> None:
    name = make_wheel(tmp_path / "built", "gowork-tried", "1.2.0")
    tried = package_of(root, "gowork-tried")
    # One of the version before will not do.
    shutil.copy(tmp_path / "old" / make_wheel(tmp_path / "old", "gowork-base", "1.1.0"), tmp_path / "index")
    with pytest.raises(ReleaseError, match=r"lacks gowork-base<1\.3,>=1\.2; publish these first"):
        publish(root, tried, tmp_path / "built", index)
    assert not (tmp_path / "index" / name).exists()
    make_wheel(tmp_path / "base", "gowork-base", "1.2.0")
    publish(root, package_of(root, "gowork-base"), tmp_path / "base", index)
    assert publish(root, tried, tmp_path / "built", index) == [name]


def test_an_upload_that_the_index_refuses_is_an_error_with_its_words(
    root: Path, package: Package, index: Index, tmp_path: Path
) -> None:
    make_wheel(tmp_path / "built", "gowork-base", "1.2.0")
    elsewhere = Index(f"{index.upload_url}nowhere/at/all", index.simple_url, index.credentials)
    with pytest.raises(ReleaseError, match=r"(?s)^the upload to http://127\.0\.0\.1:\d+/nowhere/at/all failed:\n.*40"):
        publish(root, package, tmp_path / "built", elsewhere)


def test_an_index_that_is_not_there_is_named(root: Path, package: Package, tmp_path: Path) -> None:
    make_wheel(tmp_path / "built", "gowork-base", "1.2.0")
    with loopback_index(tmp_path / "index") as index:
        pass
    with pytest.raises(ReleaseError, match=f"^{index.simple_url}gowork-base/ does not answer: .*; try again when"):
        publish(root, package, tmp_path / "built", index)


@pytest.mark.parametrize(
    ("status", "kind", "page", "told"),
    [
        (
            200,
            "application/vnd.pypi.simple.v1+json",
            '{"files": [{"filename": "a b.whl", "hashes": {"sha256": "12"}}]}',
            {"a b.whl": "12"},
        ),
        (200, "text/html", '<a class="x" href="../files/a%20b.whl#sha256=12">a</a>', {"a b.whl": "12"}),
        (404, "text/html", "no such package", {}),
        (200, "text/html", '<a href="a.whl#md5=12">a</a>', r"gives no SHA-256 of a\.whl; nothing can be compared"),
        (200, "text/html", " " * 101, "has more than 100 bytes; is it the page of a package"),
        (503, "text/html", "busy", "answers 503 Service Unavailable; try again"),
    ],
)
def test_both_forms_of_an_indexs_pages_are_read(
    status: int, kind: str, page: str, told: dict[str, str] | str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release_index, "_PAGE_BYTES_MAX", 100)

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(page.encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            index = Index("", f"http://127.0.0.1:{server.server_port}/simple")
            if isinstance(told, str):
                with pytest.raises(ReleaseError, match=told):
                    index.digests("Gowork_Base")
            else:
                assert index.digests("Gowork_Base") == told
        finally:
            server.shutdown()
            thread.join()


def test_a_version_is_there_when_its_wheel_is() -> None:
    class Known(Index):
        def digests(self, name: str) -> dict[str, str]:
            return dict.fromkeys([f"{name}-1.0-py3-none-any.whl", f"{name}-1.0.tar.gz", f"{name}-2.0.tar.gz"], "12")

    assert Known("", "").versions("one") == {Version("1.0")}
