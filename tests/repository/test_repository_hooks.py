"""The page of hooks: each signature on it is that of the code, nothing is missing, and its code is run as it stands."""

from __future__ import annotations

import ast
import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gowork.base.codecs import Codec, load_codec
from gowork.leader._access import authenticators
from gowork.leader.log import registry as logs
from gowork.leader.store import registry as stores
from gowork.worker import hookspecs

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/hooks.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
SIGNATURES = [line for block in BLOCKS for line in block.splitlines() if line.endswith(": ...")]


def signature(function: Callable[..., Any]) -> str:
    """Writes a function as the page does, without `self`."""
    found = inspect.signature(function)
    parameters = [each for each in found.parameters.values() if each.name != "self"]
    told = found.replace(parameters=parameters)
    return f"def {function.__name__}{unquoted(str(told))}: ..."


def unquoted(text: str) -> str:
    """Takes the quotes from annotations, which are texts at run time, and leaves those of defaults."""
    return re.sub(r"(: |-> )'([^']*)'", r"\1\2", text)


def in_code() -> list[str]:
    """Every hook, and what an entry point names that is no hook."""
    hooks = [function for name, function in vars(hookspecs).items() if name.startswith("gowork_")]
    hooks += [
        function
        for specs in (stores.StoreHooks, logs.LogHooks)
        for name, function in vars(specs).items()
        if name.startswith("gowork_")
    ]
    return [
        *map(signature, hooks),
        f"def authenticate(credentials: Credentials) -> {answers_of_an_authenticator()}: ...",
        f"def make_codec(keys: {inspect.signature(load_codec).parameters['keys'].annotation}) -> Codec: ...",
        signature(Codec.encrypt),
        signature(Codec.decrypt),
    ]


def answers_of_an_authenticator() -> str:
    tree = ast.parse(Path(authenticators.__file__).read_text())
    (value,) = [
        node.value
        for node in tree.body
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "Authenticate" and node.value is not None
    ]
    return ast.unparse(value).removeprefix("Callable[[Credentials], ").removesuffix("]")


def test_each_signature_of_the_page_is_that_of_the_code_and_none_is_missing() -> None:
    assert sorted(SIGNATURES) == sorted(in_code())


def test_the_page_has_each_group_of_entry_points() -> None:
    found = {
        ast.literal_eval(node.value)
        for path in ROOT.glob("packages/*/src/**/*.py")
        if "_pb2" not in path.name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).endswith("ENTRY_POINT_GROUP")
    }
    assert len(found) >= 7
    assert found == set(re.findall(r"`(gowork\.[a-z_]+)`", PAGE.partition("```")[0]))
    assert found == set(entry_points())


def entry_points() -> dict[str, dict[str, str]]:
    (text,) = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    groups: dict[str, dict[str, str]] = tomllib.loads(text)["project"]["entry-points"]
    return groups


def test_the_code_of_the_page_is_run(tmp_path: Path) -> None:
    files = {
        block.partition("\n")[0].removeprefix("# "): block for block in BLOCKS if not block.rstrip().endswith(": ...")
    }
    for name, text in files.items():
        assert re.fullmatch(r"(test_)?[a-z_]+\.py", name), f"{name}: the first line of a block is its file's name"
        (tmp_path / name).write_text(text)
    info = tmp_path / "coffee-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: coffee\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "\n".join(
            f"[{group}]\n" + "\n".join(f"{name} = {value}" for name, value in points.items())
            for group, points in entry_points().items()
        )
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider -p no:asyncio -W error\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    tests = sum(text.count("\ndef test_") for text in files.values())
    assert tests >= 5
    assert f"{tests} passed" in done.stdout, done.stdout
