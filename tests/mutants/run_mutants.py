"""Plants the edits of `*.toml` beside this file, one at a time, and tells which test notices each.

Each edit breaks a rule, and names the test that must fail because of it. That test runs first. If it passes in spite of
the edit, the suite of the edited package runs until a test fails. Then the edit names the wrong test, or it has
survived: no test keeps its rule. Edits are planted in copies of the tree, never in the tree itself.

    python3 tests/mutants/run_mutants.py                   all of them
    python3 tests/mutants/run_mutants.py --rotate 10       ten, other ones each day
    python3 tests/mutants/run_mutants.py 'term' 'lock'     those whose name has one of these words
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: The parts of the tree that the tests need.
COPIED = (
    ".github",
    "benchmarks",
    "packages",
    "plugins",
    "release",
    "tests",
    "docs",
    "deploy",
    "examples",
    "conftest.py",
    "noxfile.py",
    "pyproject.toml",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "README.md",
    "SECURITY.md",
)
#: The time limit of a test is TEST_SECONDS for all that is around it, and PATIENCE times what it took without an edit,
#: in seconds. A test that hangs because of an edit has noticed the edit.
TEST_SECONDS = 30.0
PATIENCE = 4.0
#: The time limit of a suite, in seconds.
SUITE_SECONDS = 600.0
#: What a test of all that are selected may take without an edit, on average, so that a slow machine runs all of them.
UNEDITED_SECONDS = 5.0
#: pytest's exit codes: https://docs.pytest.org/en/stable/reference/exit-codes.html
PASSED, FAILED = 0, 1
#: The exit codes of a process that a signal ended which only a defect sends.
CRASHED = frozenset(-number for number in (signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL))


@dataclass(frozen=True)
class Mutant:
    """One edit."""

    name: str
    #: The rule that it breaks, as a sentence.
    rule: str
    #: The edited file's path in the repository.
    file: str
    #: The text that is replaced; it must occur once in the file.
    old: str
    new: str
    #: The node id of the test that must fail.
    test: str

    @property
    def suite(self) -> str:
        """The folder with the tests of the edited package."""
        return str(Path(*Path(self.file).parts[:2], "tests"))


@dataclass(frozen=True)
class Verdict:
    """Whether its test has noticed one edit."""

    mutant: Mutant
    killed: bool
    #: The test that noticed, or what went wrong.
    told: str
    seconds: float


def read_mutants() -> list[Mutant]:
    """All edits, in the order of their files."""
    found: list[Mutant] = []
    for path in sorted(Path(__file__).parent.glob("*.toml")):
        found += [Mutant(**entry) for entry in tomllib.loads(path.read_text(encoding="utf-8"))["mutant"]]
    return found


def rotated(mutants: Sequence[Mutant], count: int, day: datetime.date) -> list[Mutant]:
    """The `count` mutants of a day. The next day has the next ones, so that each has its turn."""
    count = min(count, len(mutants))
    start = day.toordinal() * count
    return [mutants[(start + place) % len(mutants)] for place in range(count)]


class Tree:
    """A copy of the tree, for one edit at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        #: The modification time of the next edit, in seconds: Python sees by it that a source has changed.
        self._time = int(time.time())
        folder.mkdir()
        ignored = shutil.ignore_patterns("__pycache__", ".hypothesis", ".pytest_cache")
        for name in COPIED:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, folder / name, ignore=ignored)
            else:
                shutil.copy(source, folder / name)

    @contextlib.contextmanager
    def edited(self, mutant: Mutant) -> Iterator[None]:
        """Plants the edit, and removes it at the end."""
        path = self._folder / mutant.file
        text = path.read_text(encoding="utf-8")
        assert text.count(mutant.old) == 1, f"{mutant.name}: what it replaces occurs {text.count(mutant.old)} times"
        self._write(path, text.replace(mutant.old, mutant.new))
        try:
            yield
        finally:
            self._write(path, text)

    def run(self, tests: Sequence[str], seconds: float, *options: str) -> tuple[int | None, str]:
        """Runs these tests on the copy; returns pytest's exit code (None after `seconds`) and its output."""
        sources = [*self._folder.glob("packages/*/src"), *self._folder.glob("plugins/*/src")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sources))}
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            *options,
            *tests,
        ]
        process = subprocess.Popen(
            command,
            cwd=self._folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # So that a timeout can kill pytest with all that it has started.
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None, process.communicate()[0]
        return process.returncode, output

    def _write(self, path: Path, text: str) -> None:
        path.write_text(text, encoding="utf-8")
        self._time += 2
        os.utime(path, (self._time, self._time))


def durations(output: str) -> dict[str, float]:
    """Reads how long each test took, in seconds, from what pytest prints with --durations=0. Quick ones are missing."""
    took: dict[str, float] = {}
    for seconds, test in re.findall(r"^(\d+\.\d+)s (?:setup|call|teardown) +(\S+)", output, re.MULTILINE):
        # A parametrized test counts as a whole.
        name = test.partition("[")[0]
        took[name] = took.get(name, 0.0) + float(seconds)
    return took


def judge(tree: Tree, mutant: Mutant, test_seconds: float) -> Verdict:
    """Plants one edit and runs the tests that may notice it. Its own test may take `test_seconds`."""
    began = time.monotonic()
    with tree.edited(mutant):
        code, output = tree.run([mutant.test], test_seconds)
        if code in (FAILED, None, *CRASHED):
            told = "its test"
            if code is None:
                told += f", which took more than {test_seconds:.0f} s"
            elif code in CRASHED:
                told += f", whose process ended with {signal.Signals(-code).name}"
            return Verdict(mutant, True, told, time.monotonic() - began)
        if code != PASSED:
            last = (output.strip().splitlines() or [""])[-1]
            return Verdict(mutant, False, f"pytest ended with {code}: {last}", time.monotonic() - began)
        code, output = tree.run([mutant.suite], SUITE_SECONDS, "-x")
        killers = [line.split(" ")[1] for line in output.splitlines() if line.startswith("FAILED ")]
        told = f"not by its test, only by {killers[0]}" if killers else f"survived its test and {mutant.suite}"
        return Verdict(mutant, False, told, time.monotonic() - began)


def run(mutants: Sequence[Mutant], folder: Path, workers: int) -> list[Verdict]:
    """Judges all mutants, and prints each verdict as it comes."""
    copies = [Tree(folder / str(number)) for number in range(workers)]
    print("without an edit: ", end="", flush=True)
    tests = sorted({mutant.test for mutant in mutants})
    seconds = max(SUITE_SECONDS, UNEDITED_SECONDS * len(tests))
    code, output = copies[0].run(tests, seconds, "-n", str(workers), "--durations=0")
    if code != PASSED:
        print(f"their tests must pass, and pytest ended with {code}\n{output}")
        raise SystemExit(2)
    print(output.strip().splitlines()[-1])
    took = durations(output)
    trees: queue.SimpleQueue[Tree] = queue.SimpleQueue()
    for copy in copies:
        trees.put(copy)

    def one(mutant: Mutant) -> Verdict:
        tree = trees.get()
        try:
            own = took.get(mutant.test.partition("[")[0], 0.0)
            return judge(tree, mutant, TEST_SECONDS + PATIENCE * own)
        finally:
            trees.put(tree)

    verdicts: list[Verdict] = []
    with ThreadPoolExecutor(workers) as pool:
        for number, verdict in enumerate(pool.map(one, mutants), 1):
            word = "killed" if verdict.killed else "ALIVE "
            print(
                f"{number:>3}/{len(mutants)} {word} {verdict.seconds:5.1f} s  {verdict.mutant.name}: {verdict.told}",
                flush=True,
            )
            verdicts.append(verdict)
    return verdicts


def main() -> None:
    """Runs the mutants that the command line selects; the exit code is 1 when an edit is alive."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="run only those whose name has one of these words")
    parser.add_argument("--rotate", type=int, metavar="N", help="run N of them, other ones each day")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="run N at once")
    arguments = parser.parse_args()
    mutants = [
        mutant
        for mutant in read_mutants()
        if not arguments.words or any(word in mutant.name for word in arguments.words)
    ]
    if arguments.rotate:
        mutants = rotated(mutants, arguments.rotate, datetime.date.today())  # noqa: DTZ011 - any day will do
    if not mutants:
        parser.error("no edit's name has one of these words; the names are in tests/mutants/*.toml")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="gowork-mutants-") as name:
        verdicts = run(mutants, Path(name), arguments.workers)
    alive = [verdict for verdict in verdicts if not verdict.killed]
    for verdict in alive:
        print(f"ALIVE {verdict.mutant.name}: {verdict.mutant.rule}\n      {verdict.told}")
    print(f"{len(verdicts) - len(alive)} killed, {len(alive)} alive, {time.monotonic() - began:.0f} s")
    raise SystemExit(1 if alive else 0)


if __name__ == "__main__":
    main()
