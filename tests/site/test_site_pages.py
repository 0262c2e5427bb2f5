"""The site has every page, and its links lead to pages, or to the repository."""

from __future__ import annotations

import json
import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest
import site_links
import site_pages
import site_sources
from build_site import generated, list_versions

from gowork.cli import manual

ROOT = Path(__file__).parents[2]
SELECTOR = site_pages.HERE / "selector/version-selector.js"
SOURCES = {"sources/deploy/nginx.md", "sources/buf.yaml.md"}
KNOWN = frozenset({"README.md", "docs/tls.md", "docs/access.md", "deploy/README.md"} | SOURCES)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site's sources, as Sphinx gets them."""
    folder = tmp_path_factory.mktemp("sources")
    site_pages.lay_out(folder, generated())
    return folder


def _pages(sources: Path) -> list[Path]:
    """All pages but those of files."""
    return [page for page in sources.rglob("*.md") if page.relative_to(sources).parts[0] != "sources"]


def test_every_page_of_the_repository_is_in_the_navigation() -> None:
    patterns = ("*.md", "docs/**/*.md", "packages/*/*.md", "plugins/*/*.md", "examples/*/README.md", "deploy/README.md")
    there = {str(path.relative_to(ROOT)) for pattern in patterns for path in ROOT.glob(pattern)}
    named = [page for part in site_pages.parts() for page in part.pages]
    assert there - {*named} == set(), "name it in docs/site/nav.toml"
    assert len(named) == len({*named})


def test_the_command_line_knows_every_page(sources: Path) -> None:
    pages = {str(page.relative_to(sources).with_suffix("")) for page in _pages(sources)}
    told = {page for page in pages if not re.search(r"CHANGELOG$|decisions/\d", page)} - {"README"}
    assert {*manual.PAGES.values()} == told, "name it in gowork/cli/manual.py"
    assert len(manual.PAGES) == len(told), "two pages have one name"


def test_the_command_line_opens_the_site_of_the_project() -> None:
    assert tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["gowork"]["site"] == manual.SITE


def test_every_link_between_pages_leads_to_one(sources: Path) -> None:
    dead = []
    for page in sources.rglob("*.md"):
        text = "\n".join(line for line, is_code in site_pages.fenced(page.read_text()) if not is_code)
        for link in re.findall(r"\]\((?![a-z]+:|#)([^)#\s]+)", re.sub(r"`[^`]*`", "", text)):
            if not (page.parent / link).is_file():
                dead.append(f"{page.relative_to(sources)}: {link}")
    assert dead == []


def test_the_first_page_leads_to_all_others(sources: Path) -> None:
    shown = (sources / "index.md").read_text().splitlines()
    assert {str(page.relative_to(sources)) for page in _pages(sources)} - {"index.md"} <= {*shown}


def test_each_page_has_a_title_of_its_own(sources: Path) -> None:
    titles = [re.search(r"^# (.+)$", page.read_text(), re.MULTILINE) for page in sources.rglob("*.md")]
    counted = Counter(found and found[1] for found in titles)
    assert [title for title, times in counted.items() if times > 1 or not title] == []


def test_the_files_that_pages_name_are_in_the_site(sources: Path) -> None:
    text = "".join(page.read_text() for page in _pages(sources))
    paths = re.findall(rf"\]\({re.escape(site_pages.repository())}/(?:blob|tree)/main/([^)#\s]+)", text)
    assert [path for path in paths if (ROOT / path).exists()] == []
    for example in ("embedding/script.py", "embedding/flask_app.py", "node-worker/worker.js"):
        assert (ROOT / "examples" / example).read_text().strip() in (
            sources / f"sources/examples/{example}.md"
        ).read_text()
    assert (
        "[deploy/systemd/gowork-leader.service](../../sources/deploy/systemd/gowork-leader.service.md)"
        in (sources / "sources/deploy/systemd.md").read_text()
    )


def test_a_file_without_text_or_too_long_is_a_link_to_the_repository(tmp_path: Path) -> None:
    (tmp_path / "folder/__pycache__").mkdir(parents=True)
    (tmp_path / "folder/__pycache__/made.py").write_text("1\n")
    (tmp_path / "folder/empty").touch()
    (tmp_path / "folder/picture").write_bytes(b"\xff")
    (tmp_path / "folder/long").write_text("x" * (site_sources.SOURCE_BYTES_MAX + 1))
    (tmp_path / "folder/full").write_text("x" * site_sources.SOURCE_BYTES_MAX)
    assert {*site_sources.pages(tmp_path, ["folder"], "REPOSITORY")} == {"sources/folder.md", "sources/folder/full.md"}
    assert site_sources.pages(tmp_path, ["folder/picture"], "REPOSITORY") == {}


def test_a_file_with_a_fence_is_one_block(tmp_path: Path) -> None:
    (tmp_path / "page.py").write_text('"""```python\n1\n```"""\n')
    (text,) = site_sources.pages(tmp_path, ["page.py"], "REPOSITORY").values()
    assert '````python\n"""```python\n1\n```"""\n````\n' in text


def test_a_notebook_is_shown_by_its_cells(sources: Path) -> None:
    text = (sources / "sources/examples/embedding/notebook.ipynb.md").read_text()
    assert "```python\nfrom gowork.worker import handler\n" in text
    assert '"cell_type"' not in text


def test_a_site_of_one_version_has_no_selector() -> None:
    assert not (site_pages.HERE / "static" / SELECTOR.name).exists()
    assert "html_static_path=static,selector" in (site_pages.HERE / "build_site.py").read_text()


@pytest.mark.parametrize(
    "page", sorted([*ROOT.glob("p*/*/README.md"), ROOT / "README.md"]), ids=lambda page: page.parent.name
)
def test_each_page_that_installs_from_a_checkout_says_how_else(page: Path) -> None:
    assert "./packages/" in page.read_text()
    assert "docs/releases.md#how-to-install)" in page.read_text()


def test_every_extra_is_told_with_what_it_brings() -> None:
    text = (ROOT / "docs/releases.md").read_text()
    for path in ROOT.glob("packages/*/pyproject.toml"):
        project = tomllib.loads(path.read_text())["project"]
        # What gowork-base has are the parts of the others.
        for extra in project.get("optional-dependencies", {}) if project["name"] != "gowork-base" else ():
            assert f"`{project['name']}[{extra}]`" in text


def test_a_generated_page_outside_of_the_navigation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no part for the generated pages reference/new\.md"):
        site_pages.lay_out(tmp_path, {**generated(), "reference/new.md": ""})


def test_a_page_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"pages that are not there: reference/"):
        site_pages.lay_out(tmp_path, {})


@pytest.mark.parametrize(
    ("link", "becomes"),
    [
        ("tls.md#files", "../docs/tls.md#files"),
        ("../README.md", "../README.md"),
        ("../deploy", "../deploy/README.md"),
        ("#here", "#here"),
        ("https://example.org/x.md", "https://example.org/x.md"),
        ("../deploy/systemd", "REPOSITORY/tree/main/deploy/systemd"),
        ("../deploy/nginx", "../sources/deploy/nginx.md"),
        ("REPOSITORY/blob/main/noxfile.py#L7", "REPOSITORY/blob/main/noxfile.py#L7"),
        ("REPOSITORY/blob/main/buf.yaml#L7", "../sources/buf.yaml.md"),
        ("../noxfile.py", "REPOSITORY/blob/main/noxfile.py"),
        ("REPOSITORY/blob/main/docs/tls.md#files", "../docs/tls.md#files"),
        ("REPOSITORY/tree/main/deploy/systemd", "REPOSITORY/tree/main/deploy/systemd"),
        ("REPOSITORY/raw/main/docs/pictures/top.svg", "../docs/pictures/top.svg"),
    ],
)
def test_a_link_leads_to_the_page_or_to_the_repository(link: str, becomes: str) -> None:
    link, becomes = (text.replace("REPOSITORY", site_pages.repository()) for text in (link, becomes))
    assert site_pages.linked(f"See [it]({link}).", "docs/access.md", KNOWN) == f"See [it]({becomes}).\n"


def test_links_in_code_stay_as_they_are() -> None:
    text = "```python\ncall[0](x)\n```\n"
    assert site_pages.linked(text, "docs/access.md", KNOWN) == text
    # A block with a longer fence may have others in it.
    text = f"````md\n{text}[a](tls.md)\n````\n"
    assert site_pages.linked(text, "docs/access.md", KNOWN) == text


def test_a_drawing_stays_text_because_its_program_comes_from_elsewhere() -> None:
    assert site_pages.linked("```mermaid\na --> b\n```\n", "docs/access.md", KNOWN) == "```text\na --> b\n```\n"


def test_a_drawing_of_states_becomes_a_table() -> None:
    states = "    [*] --> NEW: submit\n    NEW --> OLD: grant (a fence)\n    OLD --> [*]: purge\n"
    page = f"```mermaid\nstateDiagram-v2\n{states}```\n"
    assert site_pages.linked(page, "docs/access.md", KNOWN) == (
        "| from | to | when |\n|---|---|---|\n| (new) | NEW | submit |\n| NEW | OLD | grant (a fence) |\n"
        "| OLD | (removed) | purge |\n"
    )


#: What a page loads from other sites.
ELSEWHERE = ("https://example.org/x.png", "//example.org/y.js", "https://example.org/z.css")


def test_dead_links_and_what_is_loaded_from_elsewhere_are_found(tmp_path: Path) -> None:
    (tmp_path / "one.html").write_text(
        '<p id="here"><a href="two.html#there">a</a><a href="two.html#gone">b</a><a href="three.html">c</a>'
        '<a href="#here">d</a><a href="https://example.org">e</a><img src="https://example.org/x.png">'
        '<script src="//example.org/y.js"></script><link rel="stylesheet" href="https://example.org/z.css">'
        '<link rel="canonical" href="https://example.org/one">'
    )
    (tmp_path / "two.html").write_text('<h1 id="there">')
    wrong, others = site_links.check(tmp_path)
    assert wrong == [
        *(f"one.html: loads {each} from elsewhere" for each in ELSEWHERE),
        "one.html: two.html#gone leads to a place that is not there",
        "one.html: three.html leads nowhere",
    ]
    assert others == ["https://example.org"]


def test_versions_are_listed_with_the_newest_first(tmp_path: Path) -> None:
    for version, pages in {"0.9.0": ["index"], "0.10.0": ["index", "docs/tls"], "drafts": ["index"]}.items():
        for page in pages:
            path = tmp_path / version / f"{page}.html"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    list_versions(tmp_path)
    assert re.findall(r'href="([^"]+)"', (tmp_path / "index.html").read_text()) == [
        "0.10.0/index.html",
        "0.9.0/index.html",
    ]
    known = json.loads((tmp_path / "versions.json").read_text())
    assert known == [
        {"version": "0.10.0", "pages": ["docs/tls.html", "index.html"]},
        {"version": "0.9.0", "pages": ["index.html"]},
    ]
    # A page that is opened as a file may load a script, and no JSON.
    assert (
        tmp_path / "versions.js"
    ).read_text() == f"window.goworkVersions = {json.dumps(known, separators=(',', ':'))};\n"


def test_the_selector_reads_what_is_beside_the_versions() -> None:
    template = (site_pages.HERE / "templates/sidebar/variant-selector.html").read_text()
    assert "pathto('../versions.js', 1)" in template
    assert f"pathto('_static/{SELECTOR.name}', 1)" in template
    assert "window.goworkVersions" in SELECTOR.read_text()
    assert {*re.findall(r"data-(\w+)=", template)} == {"version", "page", "versions"}


def test_a_page_that_a_version_lacks_leads_to_its_first_page() -> None:
    assert '${known.pages.includes(page) ? page : "index.html"}' in SELECTOR.read_text()
