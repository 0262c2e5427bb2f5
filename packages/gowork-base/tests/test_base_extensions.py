from __future__ import annotations

import importlib
import logging
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path

import pytest

from gowork.base import extensions
from gowork.base.extensions import ExtensionError, attempt, installed

GROUP = "gowork.test_extensions"
Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts distributions on the path, each with one module and an entry point that names it."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(distribution: str, source: str, name: str = "extra", version: str = "1.0") -> None:
        module = f"module_of_{distribution}"
        monkeypatch.delitem(sys.modules, module, raising=False)
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{distribution}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {module}\n")

    return install


def test_entry_points_of_one_name_are_told_apart_by_their_distributions(install: Install) -> None:
    install("aaa", "which = 'a'")
    install("bbb", "which = 'b'", version="2.1")
    found = installed(GROUP)
    assert [extension.title for extension in found] == ["extra (aaa 1.0)", "extra (bbb 2.1)"]
    assert [extension.load().which for extension in found] == ["a", "b"]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import sys; sys.exit('no licence')", "SystemExit: no licence"),
        ("class Odd(BaseException): pass\nraise Odd('why')", "Odd: why"),
        ("import asyncio; raise asyncio.CancelledError", "CancelledError"),
        ("raise GeneratorExit", "GeneratorExit"),
        (
            "class Mute(Exception):\n    def __str__(self): raise SystemExit(4)\nraise Mute",
            "cannot be read: SystemExit",
        ),
        ("import no_such_module_at_all", "ModuleNotFoundError"),
        ("1 +", "SyntaxError"),
    ],
)
def test_whatever_an_import_does_is_an_error_of_one_line(install: Install, source: str, told: str) -> None:
    install("rude", source)
    (extension,) = installed(GROUP)
    with pytest.raises(ExtensionError) as raised:
        extension.load()
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


def test_gowork_s_own_lines_are_not_named_as_the_place() -> None:
    with pytest.raises(ExtensionError) as raised:
        attempt(partial(importlib.import_module, "no_such_module_at_all"), "absent")
    assert str(raised.value) == "ModuleNotFoundError: No module named 'no_such_module_at_all'"


def test_a_person_s_ctrl_c_during_an_import_is_no_fault_of_it() -> None:
    def load() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt(load, "slow")


def test_what_an_import_prints_stays_out_of_standard_output(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install("chatty", "print('hello from an import')")
    installed(GROUP)[0].load()
    assert capsys.readouterr() == ("", "hello from an import\n")


def test_an_import_that_takes_long_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    named = threading.Event()
    told: list[str] = []

    def warning(text: str, extra: dict[str, str]) -> None:
        told.append(extra["extension"])
        named.set()

    monkeypatch.setattr(extensions, "SLOW_SECONDS", 0.001)
    monkeypatch.setattr(extensions.logger, "warning", warning)
    assert attempt(lambda: named.wait(120), "slowpoke (dist 1.0)")
    assert told[0] == "slowpoke (dist 1.0)"


def test_a_distribution_that_cannot_be_read_hides_no_other(
    install: Install, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install("fine", "")

    class Broken(metadata.Distribution):
        def read_text(self, filename: str) -> str | None:
            raise ValueError("garbage")

        def locate_file(self, path: object) -> Path:
            return Path()

    every = list(metadata.distributions())
    monkeypatch.setattr(metadata, "distributions", lambda: [Broken(), *every])
    monkeypatch.setattr(metadata, "entry_points", lambda group: Broken().read_text(group))
    with caplog.at_level(logging.WARNING):
        assert [extension.origin for extension in installed(GROUP)] == ["fine 1.0"]
    assert "a distribution cannot be read" in caplog.text


def test_it_loads_neither_grpc_nor_opentelemetry() -> None:
    code = "import sys, gowork.base.extensions; print([m for m in sys.modules if m in ('grpc', 'opentelemetry')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
