"""The project's sessions. `nox -l` lists them; CONTRIBUTING.md tells when to use which.

They need only Python and `pip install nox`. Their environments are made with uv if it is installed.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nox
from nox.command import CommandFailed

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["tests"]
nox.options.reuse_venv = "yes"
nox.options.error_on_missing_interpreters = True

ROOT = Path(__file__).parent
GROUPS = nox.project.load_toml(ROOT / "pyproject.toml")
#: Every distribution of this repository, in the order of their dependencies.
PACKAGES = [
    "packages/gowork-proto",
    "packages/gowork-base",
    "packages/gowork-client",
    "packages/gowork-cli",
    "packages/gowork-leader",
    "packages/gowork-worker",
    "packages/gowork-testing",
    "packages/gowork-all",
    "plugins/gowork-plugin-python",
    "plugins/gowork-plugin-http",
    "plugins/gowork-plugin-container",
    "plugins/gowork-plugin-shell",
]
PROTO = ROOT / "packages/gowork-proto"
CLIENT = ROOT / "packages/gowork-client"
#: {session that `nox -s tests` runs besides pytest: its arguments}.
PARTS = {
    "lint": [],
    "types": [],
    "contract": [],
    "protos": ["--check"],
    "client": ["--check"],
    "dashboards": ["--check"],
    "build": [],
    "mutants": ["--rotate", "5"],
}
#: {session that `nox -s all` runs besides those parts: its arguments}. `oldest` runs all tests, `newest` those that CI
#: has time for, and each edit of `mutants` has its turn within two weeks.
LONGER = {
    "oldest": [],
    "newest": [],
    "newest-etcd": [],
    "upgrade": [],
    "mutants": ["--rotate", "100"],
    "demo": [],
    "embedding": [],
    "sim": ["--seeds", "500"],
    "explore": [],
    "chaos": ["--minutes", "10"],
    "chaos-ha": ["--minutes", "5"],
    "drill": [],
    "images": [],
    "soak": ["--minutes", "10"],
    "docs": [],
    "newcomer": [],
    "phone": [],
    "release": ["--rehearse"],
}
#: What is explored: all interleavings of a batch and a fault, and those of three batches and two faults that deviate at
#: most so often from one order.
EXPLORED = [["--in-order"], ["--batches", "3", "--faults", "2", "--deviations", "0"]]
#: {folder or file of tests or benchmarks whose types are checked: the folders of modules that it shares, joined by
#: colons}.
TYPED_TESTS = {
    "packages/gowork-all/tests": "",
    "packages/gowork-base/tests": "",
    "packages/gowork-cli/tests": "packages/gowork-base/tests",
    "packages/gowork-client/tests": "packages/gowork-base/tests:packages/gowork-leader/tests/log",
    "packages/gowork-leader/tests/conftest.py": "",
    "packages/gowork-leader/tests/access": (
        "packages/gowork-leader/tests/access:packages/gowork-leader/tests/rpc:packages/gowork-leader/tests/app"
        ":packages/gowork-leader/tests/log"
        ":packages/gowork-base/tests"
    ),
    "packages/gowork-leader/tests/app": (
        "packages/gowork-leader/tests/rpc:packages/gowork-leader/tests/app:packages/gowork-leader/tests/log"
        ":packages/gowork-leader/tests/store:packages/gowork-base/tests"
    ),
    "packages/gowork-leader/tests/check": "",
    "packages/gowork-leader/tests/core": "packages/gowork-leader/tests/core",
    "packages/gowork-leader/tests/engine": "packages/gowork-leader/tests/core",
    "packages/gowork-leader/tests/log": "packages/gowork-leader/tests/log",
    "packages/gowork-leader/tests/property": "packages/gowork-leader/tests/property:packages/gowork-leader/tests/core",
    "packages/gowork-leader/tests/replication": "packages/gowork-leader/tests/log:packages/gowork-leader/tests/store",
    "packages/gowork-leader/tests/rpc": (
        "packages/gowork-leader/tests/rpc:packages/gowork-leader/tests/core:packages/gowork-leader/tests/log"
    ),
    "packages/gowork-leader/tests/snapshots": "packages/gowork-leader/tests/log",
    "packages/gowork-leader/tests/store": "packages/gowork-leader/tests/store:packages/gowork-leader/tests/core",
    "packages/gowork-leader/tests/wire": "",
    "packages/gowork-proto/tests": "",
    "packages/gowork-testing/tests": "",
    "packages/gowork-worker/tests": (
        "packages/gowork-worker/tests:packages/gowork-worker/tests/desk:packages/gowork-worker/tests/processes"
        ":packages/gowork-base/tests"
    ),
    "plugins/gowork-plugin-python/tests": "",
    "plugins/gowork-plugin-http/tests": "",
    "plugins/gowork-plugin-container/tests": "",
    "plugins/gowork-plugin-shell/tests": "",
    "tests/compat": "tests/compat:packages/gowork-leader/tests/log",
    "tests/costs": "tests/costs",
    "tests/deploy": (
        "tests/deploy:tests/e2e:tests/tracing:packages/gowork-base/tests:packages/gowork-leader/tests/log"
    ),
    "tests/embedding": "tests/site:tests/e2e:packages/gowork-base/tests:packages/gowork-leader/tests/log",
    "tests/e2e": "tests/e2e:packages/gowork-base/tests:packages/gowork-leader/tests/log",
    "tests/examples": "",
    "tests/explore": "tests/explore:tests/sim:packages/gowork-leader/tests/store",
    "tests/faults": "tests/faults:packages/gowork-leader/tests/log",
    "tests/floods": "tests/e2e:packages/gowork-base/tests:packages/gowork-leader/tests/log",
    "tests/fuzz": "tests/fuzz:tests/e2e:packages/gowork-leader/tests/log",
    "tests/mutants": "",
    "tests/property": "",
    "tests/protocol": "",
    "tests/site": "tests/site:tests/e2e:packages/gowork-base/tests:packages/gowork-leader/tests/log",
    "tests/release": "tests/release",
    "tests/repository": "tests/mutants:packages/gowork-leader/tests/log",
    "tests/sim": "tests/sim",
    "tests/soak": "tests/soak:tests/e2e:tests/tracing:packages/gowork-leader/tests/log",
    "tests/supply": "tests/supply",
    "tests/typed": "",
    "tests/tracing": "tests/tracing:tests/e2e:packages/gowork-leader/tests/log",
    "benchmarks": "benchmarks:benchmarks/adapters:packages/gowork-leader/tests/log",
}
#: mypy's options for tests: fixtures need no types, and a servicer that a test plays need not have every method.
UNASKED_OF_TESTS = [
    "--allow-untyped-defs",
    "--allow-incomplete-defs",
    "--allow-untyped-calls",
    "--allow-untyped-decorators",
    "--no-warn-return-any",
    "--implicit-reexport",
    "--disable-error-code=abstract",
]
#: What is built as the newest etcd, and the tests that a log in etcd must pass.
ETCD_MODULE = "go.etcd.io/etcd/server/v3"
ETCD_TESTS = [
    "packages/gowork-leader/tests/log",
    "packages/gowork-leader/tests/app/test_app_etcd.py",
    "tests/sim/test_sim_etcd.py",
    "tests/e2e/test_e2e_leaders.py",
]
#: The commit from which leaders that share a log can be upgraded.
FIRST_WITH_SEVERAL_LEADERS = "dd5c6b3"
#: What `oldest` tries more of than CI, besides the longer tests: tests/fuzz sends other sequences of calls each time,
#: and tests/sim looks for all planted bugs, of which CI has a twelfth each day.
MORE = {"GOWORK_FUZZ_EXAMPLES": "120", "GOWORK_ALL_PLANTS": "1"}
#: How long a benchmark may take to end after Ctrl-C, in seconds.
STOPPING_SECONDS = 30.0
#: pytest's arguments for all tests, and for those that CI has time for. conftest.py says how many run at once.
EVERYTHING = ["-n", "auto", "--dist", "worksteal"]
SHORTER = [*EVERYTHING, "-m", "not longer"]


def newest_python() -> str:
    """The path of the newest Python on this machine that the packages support; the running one's if no other is found.

    Also looks into pyenv's folder, because pyenv's `python3.13` on PATH is a script that fails until somebody selects
    that version.
    """
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for minor in range(14, sys.version_info.minor, -1):
        name = f"python3.{minor}"
        for path in (
            shutil.which(name),
            *map(str, sorted(pyenv.glob(f"versions/3.{minor}.*/bin/{name}"), reverse=True)),
        ):
            if path and subprocess.run([path, "-c", ""], check=False, capture_output=True).returncode == 0:
                return path
    return sys.executable


def group(name: str) -> list[str]:
    """The requirements of a dependency group."""
    return list(nox.project.dependency_groups(GROUPS, name))


def install_packages(session: nox.Session, *requirements: str) -> None:
    """Installs every package, editable, in one resolution with these requirements."""
    editable = [part for package in PACKAGES for part in ("-e", str(ROOT / package))]
    session.install(*editable, *requirements)


def timed(part: Callable[[nox.Session], None]) -> Callable[[nox.Session], None]:
    """Has a session say how many seconds it took, however it ends."""

    @functools.wraps(part)
    def timing(session: nox.Session) -> None:
        began = time.monotonic()
        try:
            part(session)
        finally:
            session.log(f"{part.__name__.rstrip('_')}: {time.monotonic() - began:.0f} s")

    return timing


@contextlib.contextmanager
def going_on(failures: list[str], what: str) -> Iterator[None]:
    """Adds `what` to `failures` when a command of its block fails, and goes on; the session reports them at its end."""
    try:
        yield
    except CommandFailed:
        failures.append(what)


@nox.session
@timed
def tests(session: nox.Session) -> None:
    """Runs the tests, without the longer ones, and every check: lint, types, contract, generated code, wheels, mutants.

    CI runs this.
    """
    if not session.posargs:
        # Before the tests, so that the parts run even if tests fail. nox ends with a list of the sessions that failed.
        for part, arguments in PARTS.items():
            session.notify(part, posargs=arguments)
    install_packages(session, *group("test"))
    session.run("pytest", *(session.posargs or SHORTER))


@nox.session(python="3.11")
@timed
def oldest(session: nox.Session) -> None:
    """Runs the tests with the oldest Python and the oldest dependencies that the packages allow. Needs uv."""
    if session.venv_backend != "uv":
        session.skip("only uv resolves to the oldest versions: pip install uv")
    install_packages(session, "--resolution", "lowest-direct", *group("test"))
    session.run("pytest", *(session.posargs or EVERYTHING), env=MORE)


@nox.session(python=newest_python())
@timed
def newest(session: nox.Session) -> None:
    """Runs the tests, without the longer ones, with the newest Python of this machine."""
    install_packages(session, *group("test"))
    session.run("pytest", *(session.posargs or SHORTER))


@nox.session(name="newest-etcd")
@timed
def newest_etcd(session: nox.Session) -> None:
    """Builds the newest etcd, for which it needs Go, and has it keep the log in tests and in a short chaos-ha."""
    if shutil.which("go") is None:
        session.skip("Go builds etcd, and is not on PATH")
    install_packages(session, *group("test"))
    # Go ignores a module in the folder for temporary files itself.
    folder = Path(session.create_tmp()).resolve() / "etcd"
    folder.mkdir(exist_ok=True)
    (folder / "go.mod").write_text("module newest-etcd\n")
    etcd = folder / "bin/etcd"
    with session.chdir(folder):
        session.run("go", "get", f"{ETCD_MODULE}@latest", external=True)
        session.run("go", "build", "-o", str(etcd), ETCD_MODULE, external=True)
    session.run(str(etcd), "--version", external=True)
    path = os.pathsep.join([str(etcd.parent), session.bin, os.environ["PATH"]])
    session.run("pytest", *ETCD_TESTS, *EVERYTHING, env={"PATH": path})
    chaos = ["--short", "--etcd", str(etcd), *session.posargs]
    session.run("python", str(ROOT / "tests/faults/run_chaos_ha.py"), *chaos)


@nox.session
@timed
def upgrade(session: nox.Session) -> None:
    """Upgrades three leaders under load, from the first commit with several leaders, and puts them back. Needs etcd."""
    if shutil.which("etcd") is None:
        session.skip("not on PATH: etcd; see CONTRIBUTING.md")
    install_packages(session, *group("test"))
    commit = session.posargs[0] if session.posargs else FIRST_WITH_SEVERAL_LEADERS
    folder = Path(session.create_tmp()).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    session.run("git", "archive", "--output", str(folder / "packages.tar"), commit, "packages", external=True)
    session.run("tar", "-xf", str(folder / "packages.tar"), "-C", str(folder), external=True)
    former = folder / "former"
    session.install("--no-deps", "--target", str(former), *map(str, sorted((folder / "packages").iterdir())))
    env = {"PYTHONPATH": str(ROOT / "packages/gowork-leader/tests/log")}
    session.run("python", str(ROOT / "tests/compat/run_upgrade.py"), str(former), env=env)


@nox.session(name="all")
def all_(session: nox.Session) -> None:
    """Runs every check, all tests and everything that takes longer, each to its end; two hours on two cores."""
    for part, arguments in {**PARTS, **LONGER}.items():
        session.notify(part, posargs=arguments)


@nox.session
@timed
def lint(session: nox.Session) -> None:
    """Checks lint, format and layers; `-- --fix` repairs the first two as far as ruff can."""
    failures: list[str] = []
    install_packages(session, *group("check"))
    fix = "--fix" in session.posargs
    with going_on(failures, "lint"):
        session.run("ruff", "check", *(["--fix"] if fix else []))
    with going_on(failures, "format"):
        session.run("ruff", "format", *([] if fix else ["--check", "--diff"]))
    with going_on(failures, "layers"):
        session.run("lint-imports", "--no-cache", "--no-logo")
    if failures:
        session.error(f"failed: {'; '.join(failures)}")


@nox.session(venv_backend="none")
@timed
def contract(session: nox.Session) -> None:
    """Checks that the protos are well formed and keep the original contract. Needs buf, which CI has."""
    if shutil.which("buf") is None:
        (session.error if os.environ.get("CI") else session.skip)("not on PATH: buf; see CONTRIBUTING.md")
    failures: list[str] = []
    with going_on(failures, "lint"):
        session.run("buf", "lint")
    with going_on(failures, "breaking changes"):
        session.run("buf", "breaking", "--against", str(PROTO / "contract/go-work.binpb"))
    if failures:
        session.error(f"failed: {'; '.join(failures)}")


@nox.session
@timed
def types(session: nox.Session) -> None:
    """Checks types with mypy: strictly in what is shipped; in tests and benchmarks, fixtures need no types."""
    failures: list[str] = []
    install_packages(session, *group("test"))
    with going_on(failures, "sources"):
        session.run("mypy", *session.posargs)
    if not session.posargs:
        failures += check_types_of_tests(session)
    if failures:
        session.error(f"failed: {'; '.join(failures)}")


def check_types_of_tests(session: nox.Session) -> list[str]:
    """Runs mypy on each of TYPED_TESTS, one on each processor at a time. Returns those that failed.

    Each has a run of its own, because in one run two conftest.py would be the same module, and each thread a cache of
    its own, which begins as that of the sources.
    """
    failures: list[str] = []
    # Each thread takes the next one when it has finished one.
    left = iter(TYPED_TESTS.items())

    def check() -> None:
        with tempfile.TemporaryDirectory() as cache:
            if (ROOT / ".mypy_cache").is_dir():
                shutil.copytree(ROOT / ".mypy_cache", cache, dirs_exist_ok=True)
            for folder, shared in left:
                with going_on(failures, folder):
                    arguments = ["--cache-dir", cache, *UNASKED_OF_TESTS, folder]
                    session.run("mypy", *arguments, env={"MYPYPATH": shared}, silent=True)

    with ThreadPoolExecutor() as pool:
        for checked in [pool.submit(check) for _ in range(os.cpu_count() or 1)]:
            checked.result()
    return sorted(failures, key=list(TYPED_TESTS).index)


@nox.session
@timed
def protos(session: nox.Session) -> None:
    """Generates Python, stubs and descriptors from the protos; `-- --check` fails when that would change anything."""
    session.install(*group("protos"))
    if "--check" not in session.posargs:
        session.run("python", str(PROTO / "generate.py"))
        return
    fresh = Path(session.create_tmp()).resolve()
    kept = {name: ROOT / "packages" / name / "src" for name in ("gowork-proto", "gowork-leader")}
    for name, source in kept.items():
        shutil.rmtree(fresh / name, ignore_errors=True)
        shutil.copytree(source, fresh / name, ignore=shutil.ignore_patterns("*_pb2*.py*", "__pycache__"))
    session.run("python", str(PROTO / "generate.py"), *(str(fresh / name) for name in kept))
    stale = [f"{name}/{path}" for name, source in kept.items() for path in differing(fresh / name, source)]
    if stale:
        session.error(f"not what the protos give; run `nox -s protos` and commit: {', '.join(stale)}")


@nox.session
@timed
def client(session: nox.Session) -> None:
    """Generates the blocking client from the asyncio one; `-- --check` fails when that would change anything."""
    session.install(*group("client"))
    if "--check" not in session.posargs:
        session.run("python", str(CLIENT / "generate.py"))
        return
    fresh = Path(session.create_tmp()).resolve() / "src"
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(CLIENT / "src", fresh, ignore=shutil.ignore_patterns("__pycache__"))
    session.run("python", str(CLIENT / "generate.py"), str(fresh))
    stale = [str(path) for path in differing(fresh, CLIENT / "src")]
    if stale:
        session.error(f"not what the asyncio client gives; run `nox -s client` and commit: {', '.join(stale)}")


def files_of(folder: Path) -> set[Path]:
    """The files below a folder, relative to it, without caches."""
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}


def read(path: Path) -> bytes | None:
    """The file's bytes; None when there is none."""
    return path.read_bytes() if path.is_file() else None


@nox.session
@timed
def dashboards(session: nox.Session) -> None:
    """Generates Grafana's dashboards from deploy/grafana/boards; `-- --check` fails when that would change anything."""
    session.install(*group("dashboards"))
    committed = ROOT / "deploy/grafana/dashboards"
    fresh = Path(session.create_tmp()).resolve() / "dashboards"
    shutil.rmtree(fresh, ignore_errors=True)
    session.run("python", str(ROOT / "deploy/grafana/boards/generate_boards.py"), str(fresh))
    stale = [str(path) for path in differing(fresh, committed)]
    if "--check" not in session.posargs:
        shutil.rmtree(committed, ignore_errors=True)
        shutil.copytree(fresh, committed)
    elif stale:
        session.error(f"not what the boards give; run `nox -s dashboards` and commit: {', '.join(stale)}")


def differing(one: Path, other: Path) -> list[Path]:
    """The paths of files that only one of two folders has, or that differ, relative to the folders."""
    return sorted(path for path in files_of(one) | files_of(other) if read(one / path) != read(other / path))


@nox.session
def pictures(session: nox.Session) -> None:
    """Draws the pictures of the documentation anew, from a real cluster that a real Prometheus watches."""
    install_packages(session, *group("pictures"))
    folder = ROOT / "docs/pictures"
    session.run("python", str(folder / "draw_top.py"))
    session.run("python", str(folder / "plot_panels.py"), str(folder))


def install_for_site(session: nox.Session) -> None:
    """Installs every package, and what building the site needs. The suites of stores and logs are public, too."""
    install_packages(session, "-e", f"{ROOT / 'packages/gowork-leader'}[conformance]", *group("docs"))


@nox.session
@timed
def docs(session: nox.Session) -> None:
    """Builds the site into build/site; warnings and dead links are errors. `-- --versions DIR` keeps other versions."""
    install_for_site(session)
    session.run("python", str(ROOT / "docs/site/build_site.py"), *(session.posargs or [str(ROOT / "build/site")]))


@nox.session
@timed
def newcomer(session: nox.Session) -> None:
    """Does the tutorial of the built site, with wheels alone and without a checkout."""
    if missing := [name for name in ("grpcurl",) if shutil.which(name) is None]:
        session.skip(f"not on PATH: {', '.join(missing)}; see CONTRIBUTING.md")
    install_for_site(session)
    session.install("pip", *group("build"), *group("test"))
    folder = Path(session.create_tmp()).resolve()
    wheels, others = folder / "wheels", folder / "others"
    for old in (wheels, others):
        shutil.rmtree(old, ignore_errors=True)
    for package in PACKAGES:
        session.run("python", "-m", "build", "--wheel", "--no-isolation", "--outdir", str(wheels), package, silent=True)
    # What the packages need from elsewhere, what the tutorial's plugin is built with, and what runs its tests.
    wanted = [*map(str, sorted(wheels.glob("*.whl"))), "hatchling", "editables", "pytest"]
    session.run("python", "-m", "pip", "download", "--quiet", "--dest", str(others), *wanted)
    session.run("python", str(ROOT / "docs/site/build_site.py"), str(folder / "site"))
    modules = os.pathsep.join(str(ROOT / path) for path in ("tests/e2e", "packages/gowork-leader/tests/log"))
    script = str(ROOT / "tests/site/run_newcomer.py")
    session.run("python", script, str(folder / "site"), str(wheels), str(others), env={"PYTHONPATH": modules})


@nox.session
@timed
def phone(session: nox.Session) -> None:
    """Checks that no page of the site is wider than a phone. Needs chromium, and builds the site before."""
    if not any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        session.skip("not on PATH: chromium; see CONTRIBUTING.md")
    install_for_site(session)
    versions = Path(session.create_tmp()).resolve() / "versions"
    shutil.rmtree(versions, ignore_errors=True)
    session.run("python", str(ROOT / "docs/site/build_site.py"), "--versions", str(versions))
    session.run("python", str(ROOT / "docs/site/check_phone.py"), str(versions))
    session.run("python", str(ROOT / "docs/site/check_versions.py"), str(versions))


@nox.session
@timed
def build(session: nox.Session) -> None:
    """Builds every wheel into dist/, installs each alone into an empty environment, imports it and runs its command."""
    failures: list[str] = []
    session.install(*group("build"))
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    for package in PACKAGES:
        session.run("python", "-m", "build", "--wheel", "--no-isolation", "--outdir", str(dist), package, silent=True)
    wheels = {wheel.name.split("-")[0]: wheel for wheel in sorted(dist.glob("*.whl"))}
    # pip must take the packages from here, even if an index has others under their names.
    siblings = Path(session.create_tmp()).resolve() / "siblings.txt"
    siblings.write_text("".join(f"{name.replace('_', '-')} @ {wheel.as_uri()}\n" for name, wheel in wheels.items()))
    for name, wheel in wheels.items():
        with going_on(failures, f"{name} alone"):
            check_wheel(session, name, wheel, siblings)
    # All together, as README installs them: the command line must find what the others contribute.
    with going_on(failures, "all packages together"):
        python = install_alone(session, "together", siblings, "gowork-cli[up]", "gowork-plugin-shell")
        for command in (
            ["up", "--help"],
            ["leader", "--version"],
            ["worker", "--version"],
            ["protos", "--help"],
            ["worker-check", "--list"],
            ["plugins"],
        ):
            session.run(str(Path(python).parent / "gowork"), *command, external=True, silent=command != ["plugins"])
        # The files of a new plugin come in the wheel.
        new = siblings.parent / "new"
        shutil.rmtree(new, ignore_errors=True)
        made = ["plugin", "new", "thumbnails", "--directory", str(new)]
        session.run(str(Path(python).parent / "gowork"), *made, external=True, silent=True)
    # Authors of a store must get the suite that it must pass, with all that the suite needs.
    with going_on(failures, "the conformance suite of stores"):
        python = install_alone(session, "conformance", siblings, "gowork-leader[conformance]")
        suite = shutil.copy(ROOT / "packages/gowork-leader/tests/store/test_store_sqlite.py", siblings.parent)
        # Without this repository's own conftest.py and settings, which others don't have.
        alone = ["-c", os.devnull, "--rootdir=.", "--confcutdir=.", "-o", "asyncio_default_fixture_loop_scope=function"]
        with session.chdir(siblings.parent):
            session.run(python, "-I", "-m", "pytest", "--quiet", *alone, suite, external=True)
    # The committed generated code must run on the previous major version of protobuf too.
    with going_on(failures, "the previous major version of protobuf"):
        python = install_alone(session, "previous_protobuf", siblings, str(wheels["gowork_proto"]), "protobuf<7")
        modules = ["cluster.v1.leader", "scheduler.v1.scheduler", "worker.v1.session", "worker.v1.worker"]
        imports = "; ".join(f"import gowork.proto.{module}_pb2_grpc" for module in modules)
        session.run(python, "-I", "-c", imports, external=True)
    if failures:
        session.error(f"failed: {'; '.join(failures)}")


def install_alone(session: nox.Session, name: str, siblings: Path, *requirements: str) -> str:
    """Makes an empty environment with these requirements, and returns its Python."""
    home = siblings.parent / name
    python = str(home / ("Scripts" if sys.platform == "win32" else "bin") / "python")
    session.run("python", "-m", "virtualenv", "--clear", "--quiet", str(home))
    uv = session.venv_backend == "uv"
    install = ["uv", "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
    session.run(*install, "--quiet", "--constraint", str(siblings), *requirements, external=True)
    return python


def check_wheel(session: nox.Session, name: str, wheel: Path, siblings: Path) -> None:
    """Installs one wheel, imports its package and asks its commands for their version and help."""
    python = install_alone(session, name, siblings, str(wheel))
    module = name if "plugin" in name else name.replace("_", ".", 1)
    # In another folder, so that nothing of the work tree can be imported by accident.
    with session.chdir(siblings.parent):
        session.run(python, "-I", "-c", f"import {module}; print({module}.__name__, 'imports')", external=True)
        for script in console_scripts(name):
            command = str(Path(python).parent / script)
            session.run(command, "--version", external=True)
            session.run(command, "--help", external=True, silent=True)


def console_scripts(name: str) -> list[str]:
    """The names of the commands that a wheel installs, as its package's pyproject.toml declares them."""
    (package,) = [package for package in PACKAGES if package.endswith("/" + name.replace("_", "-"))]
    return sorted(nox.project.load_toml(ROOT / package / "pyproject.toml")["project"].get("scripts", {}))


@nox.session
@timed
def release(session: nox.Session) -> None:
    """Checks, builds and tries what is released: `-- gowork-leader`; `-- --rehearse` without tag, of all packages."""
    session.install(*group("release"))
    arguments = session.posargs or ["--help"]
    session.run("python", str(ROOT / "release/run_release.py"), "--newest", newest_python(), *arguments)
    if arguments == ["--rehearse"]:
        env = {"PYTHONPATH": str(ROOT / "release")}
        session.run("python", str(ROOT / "tests/release/run_newcomer.py"), str(ROOT / "build/release"), env=env)


@nox.session
@timed
def publish(session: nox.Session) -> None:
    """Uploads what `release` has left in build/release, where the index does not have it: `-- gowork-leader`."""
    session.install(*group("release"))
    session.run("python", str(ROOT / "release/run_publish.py"), *(session.posargs or ["--help"]))


@nox.session
@timed
def audit(session: nox.Session) -> None:
    """Lists the licences of all runtime dependencies, and asks for known weaknesses. Needs the advisories of PyPI.

    No other session runs it: its answer changes without any commit, and it needs a service that not every machine
    reaches. Then it fails, because nothing was audited.
    """
    session.install(*group("audit"))
    folder = Path(session.create_tmp()).resolve()
    python = str(folder / "runtime" / ("Scripts" if sys.platform == "win32" else "bin") / "python")
    session.run("python", "-m", "virtualenv", "--clear", "--quiet", str(folder / "runtime"))
    uv = session.venv_backend == "uv"
    install = ["uv", "pip", "install", "--python", python] if uv else [python, "-m", "pip", "install"]
    wanted = [part for package in PACKAGES for part in ("-e", f"{ROOT / package}[{','.join(runtime_extras(package))}]")]
    session.run(*install, "--quiet", *wanted, external=True)
    bill = folder / "gowork.cdx.json"
    session.run("python", str(ROOT / "tests/supply/run_audit.py"), python, str(bill))
    session.log(f"the bill of materials: {bill}")


def runtime_extras(package: str) -> list[str]:
    """The extras of a package, without those that only tests need."""
    extras = nox.project.load_toml(ROOT / package / "pyproject.toml")["project"].get("optional-dependencies", {})
    return sorted(set(extras) - {"conformance"})


@nox.session
@timed
def demo(session: nox.Session) -> None:
    """Runs a leader, three workers and 1,000 tasks on this machine; `-- --keep` leaves the cluster running."""
    install_packages(session)
    session.run("python", str(ROOT / "examples/demo/run.py"), *session.posargs)


@nox.session
@timed
def embedding(session: nox.Session) -> None:
    """Runs the examples of docs/embedding.md under FastAPI, Django, Flask, gunicorn and Jupyter."""
    install_packages(session, *group("test"), *group("embedding"))
    session.run("pytest", "tests/embedding", *session.posargs)


@nox.session
@timed
def sim(session: nox.Session) -> None:
    """Simulates clusters with faults: `-- --seeds 200` of each kind; one seed with its history: `-- --seed 17`."""
    install_packages(session)
    session.run("python", str(ROOT / "tests/sim/run_sim.py"), *session.posargs)


@nox.session
@timed
def explore(session: nox.Session) -> None:
    """Explores the interleavings of two leaders and one log: `-- --batches 3 --faults 1`; `-- --plants` plants bugs."""
    install_packages(session, *group("test"))
    shared = [str(ROOT / folder) for folder in ("tests/sim", "packages/gowork-leader/tests/store")]
    env = {"PYTHONPATH": os.pathsep.join(shared)}
    for arguments in [session.posargs] if session.posargs else EXPLORED:
        session.run("python", str(ROOT / "tests/explore/run_explore.py"), *arguments, env=env)


@nox.session
@timed
def mutants(session: nox.Session) -> None:
    """Plants edits that break a rule, and names the test that notices each: `-- --rotate 10`, `-- term lock`."""
    install_packages(session, *group("test"))
    session.run("python", str(ROOT / "tests/mutants/run_mutants.py"), *session.posargs)


@nox.session
@timed
def soak(session: nox.Session) -> None:
    """Runs thousands of tasks of every kind of handler with every option: `-- --minutes 5`, `-- --tasks 200`."""
    install_packages(session, *group("test"))
    session.run("python", str(ROOT / "tests/soak/run_soak.py"), *session.posargs)


@nox.session
@timed
def chaos(session: nox.Session) -> None:
    """Kills and stops real processes under load, and checks the history: `-- --minutes 5`, `-- --seed 17`."""
    install_packages(session, *group("test"))
    session.run("python", str(ROOT / "tests/faults/run_chaos.py"), *session.posargs)


@nox.session(name="chaos-ha")
@timed
def chaos_ha(session: nox.Session) -> None:
    """Does faults to several leaders and to etcd, which it needs: `-- --minutes 5 --seed 17`, `-- --json FILE`."""
    install_packages(session, *group("test"))
    session.run("python", str(ROOT / "tests/faults/run_chaos_ha.py"), *session.posargs)


@nox.session
@timed
def drill(session: nox.Session) -> None:
    """Kills each process of the deployment in deploy/systemd once, under load. Needs root, etcd and NGINX."""
    if os.geteuid() != 0:
        session.skip("only root can make the network in which it runs")
    install_packages(session, *group("test"))
    session.run("python", str(ROOT / "tests/deploy/run_drill.py"))


@nox.session
@timed
def images(session: nox.Session) -> None:
    """Builds the images of deploy/docker without an engine, and runs a cluster from them. Needs root and buildah."""
    missing = [name for name in ("buildah", "debootstrap", "nsenter", "unshare") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        session.skip(f"not on PATH: {', '.join(missing)}; see CONTRIBUTING.md" if missing else "only root can do that")
    session.install("psutil>=6,<8")
    session.run("python", str(ROOT / "tests/deploy/run_images.py"), str(Path(session.create_tmp()).resolve()))


@nox.session
def bench(session: nox.Session) -> None:
    """Measures gowork beside what the machine can do without it: `-- callers`; `-- peers`; `-- --against 0.1.0`."""
    install_packages(session, *group("bench"))
    # After Ctrl-C it ends what it has started, before nox loses patience.
    session.run("python", str(ROOT / "benchmarks/run.py"), *session.posargs, interrupt_timeout=STOPPING_SECONDS)
