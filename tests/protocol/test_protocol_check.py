"""The command `gowork worker-check` on gowork's own worker, on one in Node, and on that one with each rule broken.

If no broken worker failed a rule, the check of that rule might not work.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from gowork.cli.root import cli
from gowork.leader._check.command import check
from gowork.leader._check.rules import RULES, Finding, Verdict
from gowork.leader._check.scenarios import SCENES
from gowork.leader._check.stage import Script

ROOT = Path(__file__).parents[2]
NODE = ROOT / "examples/node-worker"
#: For workers that keep the rules: they take so long only on a machine that stands still.
PATIENT = Script(patience=40.0, first_patience=60.0)
#: For workers that break a rule: the check waits this long for each thing that they do not do.
IMPATIENT = Script(patience=1.5, first_patience=15.0)
#: The handler that the check's tasks name. It sleeps in place of work.
HANDLERS = """
import asyncio
from gowork.worker import handler

@handler
async def sleep(milliseconds: str) -> None:
    await asyncio.sleep(int(milliseconds) / 1000)
"""

#: (the broken rule, the scene that finds it, the text in the worker's source, its replacement).
BROKEN = [
    ("hello-first", "work", "this.say({ hello: hello() });", "this.say({}); this.say({ hello: hello() });"),
    ("hello-valid", "work", "slots: SLOTS,", "slots: 0,"),
    ("credit-given", "work", "this.say({ credit: [credit] });", ""),
    ("credit-renewed", "work", "    this.giveCredit();\n", "    if (frame.welcome) this.giveCredit();\n"),
    ("report", "work", "const report = { fence, id };", "const report = { fence, id: `${id}?` };"),
    ("report", "work", "=> JSON.stringify(payload)", "=> payload"),
    ("batch", "work", "const grant of frame.grants", "const grant of frame.grants.slice(0, 1)"),
    ("frames-valid", "work", "report.outcome = 'ATTEMPT_OUTCOME_COMPLETED';", "report.outcome = 77;"),
    ("heartbeat", "life", "    this.beats.push(Date.now());\n    this.say({});\n", ""),
    ("ping", "life", "this.say({ pongs: frame.pings });", ""),
    (
        "large-payload",
        "large",
        "'grpc.max_receive_message_length': 8 << 20",
        "'grpc.max_receive_message_length': 1 << 19",
    ),
    (
        "refused",
        "refused",
        "of frame.acknowledged)",
        "of frame.acknowledged.filter((f) => !frame.refused.includes(f)))",
    ),
    ("reconnect", "broken", "const instance = randomUUID();", "const instance = { toString: randomUUID };"),
    ("held-finished", "broken", "held: [...running, ...finished]", "held: running"),
    ("resend", "broken", "    if (kept.size) this.report([...kept.values()]);\n", ""),
    ("forget", "broken", "for (const fence of frame.acknowledged) kept.delete(fence);", ""),
    (
        "credit-restarts",
        "credit",
        "    this.granted = 0; // Both",
        "    Object.defineProperty(this, 'granted', { get: () => Session.n || 0, set: (n) => { Session.n = n; } }); //",
    ),
    ("held-running", "running", "held: [...running, ...finished]", "held: finished"),
    ("cancel-running", "cancels", "for (const fence of frame.cancelled) held.get(fence)?.stop.abort();", ""),
    (
        "cancel-with-grant",
        "cancels",
        "for (const grant of frame.grants) this.take(grant);",
        "setTimeout(() => frame.grants.forEach((grant) => this.take(grant)), 5);",
    ),
    ("release", "release", "  held.delete(fence);\n  task?", "  task?"),
    ("term", "term", "BigInt(term) < termSeen", "BigInt(term) < 0n"),
    ("silence", "silence", "> lease * 2 / 3", "> lease * 2000"),
    ("one-stream", "silence", "    this.stream.cancel();\n", ""),
    ("refusal", "refusal", "Math.min(2000, 100 * 2 ** failures)", "0"),
    ("drain-announced", "drain", "{ draining = true; this.say({ conditions: [{ draining }] }); }", "draining = true;"),
    (
        "drain-hands-back",
        "drain",
        "    if (!draining) run(grant);\n    else keep(",
        "    run(grant);\n    if (0) keep(",
    ),
    (
        "drain-finishes",
        "drain",
        "{ draining = true; ",
        "{ draining = true; for (const { stop } of held.values()) stop.abort(); ",
    ),
    ("leave", "drain", "    if (leaving) process.exit(0);\n", ""),
]
#: Those that take many seconds.
SLOW = [*BROKEN[:2], *BROKEN[8:]]


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command of a copy of the worker in Node, whose source a test may change."""
    modules = NODE / "node_modules"
    if not modules.is_dir():
        reason = "the worker in Node has no modules: run `npm ci --ignore-scripts` in examples/node-worker"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    monkeypatch.setenv("NODE_PATH", str(modules))
    assert CliRunner().invoke(cli, ["protos", "--out", str(tmp_path / "protos")]).exit_code == 0
    (tmp_path / "worker.js").write_text((NODE / "worker.js").read_text())
    return ["node", str(tmp_path / "worker.js"), "{leader}", str(tmp_path / "protos")]


def plant(source: Path, old: str, new: str) -> None:
    """Edits a worker's source, so that it breaks a rule."""
    text = source.read_text()
    assert text.count(old) == 1, f"it stands {text.count(old)} times in the worker: {old}"
    source.write_text(text.replace(old, new))


async def failed(command: list[str], script: Script, *scenes: str) -> dict[str, Finding]:
    """Runs the check, and returns {rule that the worker does not keep: what was found}."""
    findings = await check("127.0.0.1:0", script, command, scenes or list(SCENES))
    if not scenes:
        assert {finding.rule for finding in findings} == set(RULES)
    return {finding.rule: finding for finding in findings if finding.verdict is not Verdict.PASS}


@pytest.mark.parametrize(
    "scenes", [["broken"], [name for name in SCENES if name != "broken"]], ids=["when its stream breaks", "otherwise"]
)
async def test_goworks_own_worker_keeps_every_rule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scenes: list[str]
) -> None:
    (tmp_path / "check_handlers.py").write_text(HANDLERS)
    monkeypatch.chdir(tmp_path)
    worker = [sys.executable, "-m", "gowork.worker", "--leader", "{leader}", "--name", "own", "--runners", "1"]
    options = ["--slots", "4", "--import", "check_handlers", "--state-dir", str(tmp_path)]
    assert await failed([*worker, *options], PATIENT, *scenes) == {}


@pytest.mark.tool("node")
async def test_a_worker_in_another_language_keeps_every_rule(node: list[str]) -> None:
    assert await failed(node, PATIENT) == {}


@pytest.mark.tool("node")
@pytest.mark.parametrize(
    ("rule", "scene", "old", "new"),
    # Each of the others takes many seconds, and checks the check.
    [*(pytest.param(*each, marks=pytest.mark.longer) for each in SLOW), *BROKEN[2:8]],
    ids=[f"{rule}: {new}"[:40] for rule, _, _, new in (*SLOW, *BROKEN[2:8])],
)
async def test_a_worker_that_breaks_a_rule_fails_it(node: list[str], rule: str, scene: str, old: str, new: str) -> None:
    plant(Path(node[1]), old, new)
    broken: dict[str, Finding] = {}
    for _ in range(5):
        # A worker that does not pause is slow all the same while it gets no processor.
        broken = await failed(node, IMPATIENT, scene)
        if rule in broken:
            break
    assert rule in broken
    assert broken[rule].verdict is Verdict.FAIL
    assert broken[rule].seen


def test_every_rule_is_broken_by_some_worker() -> None:
    # A protobuf library ignores unknown fields, so no edit of the worker in Node breaks that rule.
    assert {rule for rule, *_ in BROKEN} == set(RULES) - {"unknown-fields"}


def test_every_rule_belongs_to_a_scene() -> None:
    assert {rule for scene in SCENES.values() for rule in scene.rules} == set(RULES)
