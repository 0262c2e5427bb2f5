"""The command `gowork worker-check`, an entry point of gowork.commands."""

from __future__ import annotations

import asyncio
import shlex
import textwrap
from collections.abc import Sequence

import click
import msgspec

from gowork.leader._check.rules import RULES, Finding, Verdict
from gowork.leader._check.scenarios import SCENES
from gowork.leader._check.scripted import ScriptedLeader
from gowork.leader._check.stage import PLACEHOLDER, SceneOver, Script, Stage

#: How many columns wide what was seen is printed.
_SEEN_COLUMNS = 90
_COLOURS = {Verdict.PASS: "green", Verdict.FAIL: "red", Verdict.NOT_TRIED: "yellow"}


@click.command(
    "worker-check",
    epilog=f"""\b
Examples:
  gowork worker-check -- ./my-worker --leader {PLACEHOLDER}
  gowork worker-check --listen 127.0.0.1:50051      # then start the worker yourself
  gowork worker-check --only broken -- ./my-worker {PLACEHOLDER}
  gowork worker-check --echo copy --sleep wait -o json -- ./my-worker {PLACEHOLDER}
  gowork worker-check --list

\b
The worker needs a handler "echo", which returns its payload. Some rules also need
a handler "sleep", which takes as many milliseconds as its payload says and can be
cancelled. --echo and --sleep name other handlers. `gowork docs protocol`
opens the page that says why each rule is there.

\b
Exit codes: 0 the worker keeps every rule that was tried; 1 it does not; 2 wrong usage.""",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100, "show_default": True},
)
@click.option(
    "--listen", default="127.0.0.1:0", metavar="HOST:PORT", help="Play the leader here; port 0 takes a free one."
)
@click.option("--echo", default="echo", metavar="NAME", help="The worker's handler that returns its payload.")
@click.option("--sleep", default="sleep", metavar="NAME", help="Its handler that takes as many ms as its payload says.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(list(SCENES)),
    metavar="SCENE",
    help="Play only this scene; may be repeated. --list shows the scenes.",
)
@click.option(
    "--patience",
    type=click.FloatRange(min=0.1, max=3600),
    default=10.0,
    metavar="SECONDS",
    help="How long the worker may take for each thing that it must do.",
)
@click.option(
    "--wait",
    type=click.FloatRange(min=0.1, max=24 * 3600),
    default=60.0,
    metavar="SECONDS",
    help="How long the worker may take to connect at first.",
)
@click.option("--list", "listing", is_flag=True, help="Print the scenes and the rules, and try nothing.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", help="The form of the output.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def main(
    *,
    listen: str,
    echo: str,
    sleep: str,
    only: Sequence[str],
    patience: float,
    wait: float,
    listing: bool,
    output: str,
    command: Sequence[str],
) -> None:
    """Try a worker of any language against the rules of the protocol.

    Plays a leader that breaks streams, loses acknowledgements, cancels, drains and falls silent, and checks what the
    worker does. COMMAND starts the worker; in it, {leader} stands for the leader's address. Without COMMAND, start the
    worker yourself.
    """
    if listing:
        _print_list(output)
        return
    script = Script(echo=echo, sleep=sleep, patience=patience, first_patience=wait)
    try:
        findings = asyncio.run(check(listen, script, command, [name for name in SCENES if not only or name in only]))
    except (ValueError, RuntimeError) as error:
        # The address is not valid, or another process listens there.
        raise click.BadParameter(str(error), param_hint="--listen") from None
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode([_record(finding) for finding in findings])))
    else:
        _print_table(findings)
    if any(finding.verdict is Verdict.FAIL for finding in findings):
        raise click.exceptions.Exit(1)


async def check(listen: str, script: Script, command: Sequence[str], scenes: Sequence[str]) -> list[Finding]:
    """Plays scenes to one worker.

    Args:
        listen: HOST:PORT at which the leader is played.
        script: the names and times that the scenes use.
        command: the command that starts the worker; empty when somebody else starts it.
        scenes: the names of the scenes, in order.
    """
    leader = ScriptedLeader()
    async with leader.serving(listen) as address:
        click.echo(f"playing a leader at {address}", err=True)
        click.echo(
            f"starting {shlex.join(command)}" if command else f"waiting {script.first_patience:g} s for a worker",
            err=True,
        )
        stage = Stage(leader, script, command)
        try:
            for name in scenes:
                await _play(stage, name)
        finally:
            await stage.stop_worker()
    return stage.findings.all()


async def _play(stage: Stage, name: str) -> None:
    scene = SCENES[name]
    click.echo(f"scene {name}", err=True)
    why = f"the scene {name!r} ended before"
    try:
        if scene.sleeps and not stage.sleeps:
            stage.findings.not_tried(scene.rules, f"the worker has no handler {stage.script.sleep!r}")
            return
        await scene.play(stage)
    except SceneOver as over:
        why = str(over)
        # The rule that the scene was about to try has failed. Nothing else says why the scene is over.
        untold = [rule for rule in scene.rules if not stage.findings.knows(rule)]
        if untold:
            stage.findings.failed(untold[0], why)
    finally:
        stage.look_at_streams()
    stage.findings.not_tried(scene.rules, why)


def _record(finding: Finding) -> dict[str, str]:
    return {
        "rule": finding.rule,
        "verdict": finding.verdict.value,
        "expected": finding.expected,
        "seen": finding.seen,
    }


def _print_table(findings: Sequence[Finding]) -> None:
    width = max(map(len, RULES))
    for finding in findings:
        verdict = click.style(f"{finding.verdict.value:<9}", fg=_COLOURS[finding.verdict])
        click.echo(f"{finding.rule:<{width}}  {verdict}  {'The worker ' + finding.expected}")
        if finding.seen:
            for line in textwrap.wrap(finding.seen, _SEEN_COLUMNS):
                click.echo(f"{'':<{width}}             {line}")
    counts = {verdict: sum(finding.verdict is verdict for finding in findings) for verdict in Verdict}
    click.echo(", ".join(f"{count} {verdict.value}" for verdict, count in counts.items()))


def _print_list(output: str) -> None:
    if output == "json":
        rows = [
            {"scene": name, "rule": rule, "expected": RULES[rule]}
            for name, scene in SCENES.items()
            for rule in scene.rules
        ]
        click.echo(msgspec.json.format(msgspec.json.encode(rows)))
        return
    width = max(map(len, RULES))
    for name, scene in SCENES.items():
        click.echo(click.style(name, bold=True))
        for rule in scene.rules:
            click.echo(f"  {rule:<{width}}  {RULES[rule]}")
