"""The command `gowork replay`, an entry point of gowork.commands. It asks a leader for a task, and changes nothing."""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, BinaryIO

import click
import msgspec

from gowork.base.tls_files import caller_files
from gowork.proto import limits
from gowork.worker._core.plugins import add_search_path

if TYPE_CHECKING:
    from gowork.proto.scheduler.v1 import scheduler_pb2 as tasks
    from gowork.worker._authoring.replay import Recorded
    from gowork.worker.testing import Outcome

#: As for the other commands of gowork.
_EXIT_UNREACHABLE = 3
#: Seconds that a leader has to answer.
_CALL_SECONDS = 30.0
#: How many lines of the handler's log are shown: the last ones.
_LOG_LINES_MAX = 1_000
#: How much of a follow-up's payload is shown, in characters.
_PAYLOAD_CHARS_MAX = 200


@click.command(
    "replay",
    epilog="""\b
Examples:
  gowork replay nightly-report --local --import reports
  gowork replay nightly-report --local --import reports --pdb    # a debugger where it fails
  gowork replay nightly-report --local --payload edited.json
""",
)
@click.argument("task_id", metavar="ID")
@click.option(
    "--local", is_flag=True, help="Run it here. There is no other way; `gowork retry` runs it in the cluster."
)
@click.option(
    "--import",
    "imports",
    multiple=True,
    metavar="MODULE",
    help="Load a module with handlers, also from the working directory. May be repeated.",
)
@click.option("--handler", metavar="NAME", help="Run this handler.  [default: the task's]")
@click.option(
    "--payload",
    type=click.File("rb"),
    metavar="FILE",
    help="Run with the payload in this file instead of the recorded one. - reads standard input.",
)
@click.option("--pdb", "debugs", is_flag=True, help="Open a debugger where the handler has failed.")
@click.option("--break", "breaks", is_flag=True, help="Open a debugger at the first line of the handler.")
@click.option(
    "--output",
    "-o",
    type=click.Choice(["table", "json"]),
    default="table",
    show_default=True,
    help="The form of the answer.",
)
@click.option(
    "--leader",
    envvar="GOWORK_LEADER",
    default="127.0.0.1:50052",
    show_default=True,
    metavar="HOST:PORT[,…]",
    help="The leader that has the task.",
)
@click.option("--keys", metavar="FILE", help="Decrypt the payload with these keys.  [default: GOWORK_KEYS]")
@click.option(
    "--codec", metavar="NAME", help="The codec that uses the keys.  [default: GOWORK_CODEC, else aes-256-gcm]"
)
@click.option("--tls-ca", "ca", metavar="FILE", help="As for all commands of gowork.  [default: GOWORK_TLS_CA]")
@click.option("--tls-cert", "cert", metavar="FILE", help="As for all commands.  [default: GOWORK_TLS_CERT]")
@click.option("--tls-key", "key", metavar="FILE", help="As for all commands.  [default: GOWORK_TLS_KEY]")
@click.option("--tls-name", "name", metavar="NAME", help="As for all commands.  [default: GOWORK_TLS_NAME]")
@click.option("--token-file", "token", metavar="FILE", help="As for all commands.  [default: GOWORK_TOKEN_FILE]")
@click.option("--insecure", is_flag=True, default=None, help="As for all commands.  [default: GOWORK_INSECURE]")
def main(
    *,
    task_id: str,
    local: bool,
    imports: Sequence[str],
    handler: str | None,
    payload: BinaryIO | None,
    debugs: bool,
    breaks: bool,
    output: str,
    leader: str,
    keys: str | None,
    codec: str | None,
    **tls: Any,
) -> None:
    """Run the recorded payload of the task ID through the handler that is installed here.

    The cluster hears nothing of it: no attempt is counted, and follow-ups are only shown. What the handler itself does
    to the world, it does. Waits of the handler end at once, on a clock that jumps. Exits with 1 when it did not
    complete.
    """
    if not local:
        raise click.UsageError(
            "give --local, because a replay runs here; `gowork retry` runs a task in the cluster again"
        )
    if breaks and output == "json":
        raise click.UsageError("--break talks on standard output; give it without --output json")
    from gowork.base.codecs import CodecError, codec_of
    from gowork.worker._authoring import replay

    given = {name: value for name, value in tls.items() if value is not None}
    task = _fetch(task_id, leader, given)
    try:
        changed = payload.read(limits.PAYLOAD_BYTES_MAX + 1) if payload is not None else None
        if changed is not None:
            replay.with_payload(task, changed)
        recorded = replay.readable(task, codec_of(keys, codec, os.environ))
        if imports:
            add_search_path(os.getcwd())
        found, loaded = replay.handler_of(handler or task.handler, imports)
        outcome = replay.run(recorded.task, found, loaded, imports, breaks=breaks)
    except (replay.ReplayError, CodecError) as error:
        raise click.ClickException(str(error)) from error
    difference = None if changed is not None else replay.difference(recorded, outcome)
    if output == "json":
        click.echo(msgspec.json.format(msgspec.json.encode(_record(recorded, outcome, difference))).decode())
    else:
        _print(recorded, outcome, difference)
    if debugs:
        _debug(outcome)
    if outcome.status.value != "completed":
        raise click.exceptions.Exit(1)


def _fetch(id: str, leader: str, given: dict[str, Any]) -> tasks.Task:
    """Asks the leaders for the task, one after the other until one answers."""
    import grpc

    from gowork.base.certificates import CertificateError
    from gowork.base.channels import AddressError, check_token, open_blocking_channel, split_addresses, unanswered
    from gowork.base.tls import tls_of
    from gowork.proto.scheduler.v1 import scheduler_pb2
    from gowork.proto.scheduler.v1 import scheduler_pb2_grpc as scheduler_grpc
    from gowork.proto.status import refusal_of

    try:
        addresses = split_addresses(leader)
        tls = tls_of(msgspec.structs.replace(caller_files(), **given))
        check_token(addresses, tls)
    except (AddressError, CertificateError) as error:
        raise click.UsageError(str(error)) from error
    told = ""
    for address in addresses:
        with open_blocking_channel([address], has_others=len(addresses) > 1, tls=tls) as channel:
            stub = scheduler_grpc.SchedulerServiceStub(channel)
            try:
                return stub.GetTask(scheduler_pb2.GetTaskRequest(id=id), timeout=_CALL_SECONDS).task
            except grpc.RpcError as error:
                refusal = refusal_of(error)
        if refusal.code is grpc.StatusCode.NOT_FOUND:
            raise click.ClickException(
                f"no task has the id {id!r}: it was never scheduled here, or it was purged, as finished tasks are "
                "after their retention"
            )
        if refusal.code not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            raise click.ClickException(refusal.message)
        told = refusal.message
    click.echo(f"Error: {unanswered(addresses)}: {told}", err=True)
    raise click.exceptions.Exit(_EXIT_UNREACHABLE)


def _shown(result: str | bytes | None) -> str:
    return f"{len(result):,} bytes" if isinstance(result, bytes) else result or ""


def _status_of(task: tasks.Task) -> str:
    from gowork.proto.scheduler.v1 import scheduler_pb2

    return scheduler_pb2.TaskStatus.Name(task.status).removeprefix("TASK_STATUS_")


def _say(words: str) -> None:
    """Prints a line without what a terminal would obey: it may come from anybody who schedules tasks."""
    click.echo("".join(each if each.isprintable() or each in "\n\t" else "\ufffd" for each in words))


def _print(recorded: Recorded, outcome: Outcome, difference: str | None) -> None:
    from gowork.worker._authoring.replay import result_of

    for record in outcome.logs[-_LOG_LINES_MAX:]:
        _say(f"log       {record.levelname.lower()}: {record.getMessage()}")
    for word in outcome.progress:
        _say(f"progress  {word.fraction:.0%} {word.message} (at {word.at:g} s)")
    for follow_up in outcome.follow_ups:
        content = f"{len(follow_up.data):,} bytes" if follow_up.data else follow_up.payload[:_PAYLOAD_CHARS_MAX]
        _say(f"follow-up {follow_up.handler}: {content} (not scheduled)")
    if outcome.failure is not None and outcome.failure.traceback:
        _say(outcome.failure.traceback.rstrip("\n"))
    _say(f"outcome   {outcome}")
    if outcome.status.value == "completed":
        _say(f"result    {_shown(result_of(outcome))}")
    words, shown = f"recorded  {_status_of(recorded.task)}", _shown(recorded.result)
    if shown:
        words += f" {shown}"
    elif recorded.unreadable:
        words += f" (its result can't be read: {recorded.unreadable})"
    _say(words)
    if difference is not None:
        _say(f"compared  {difference or 'the same'}")


def _record(recorded: Recorded, outcome: Outcome, difference: str | None) -> dict[str, Any]:
    from gowork.worker._authoring.replay import result_of

    failure = outcome.failure
    return {
        "id": recorded.task.id,
        "handler": outcome.context.handler if outcome.context is not None else recorded.task.handler,
        "status": outcome.status.value,
        "reason": outcome.reason,
        "result": _json(result_of(outcome)),
        "failure": None
        if failure is None
        else {
            "kind": failure.kind.value,
            "type": failure.type,
            "message": failure.message,
            "traceback": failure.traceback,
        },
        "progress": [{"fraction": word.fraction, "message": word.message} for word in outcome.progress],
        "logs": [record.getMessage() for record in outcome.logs[-_LOG_LINES_MAX:]],
        "recorded": {"status": _status_of(recorded.task), "result": _json(recorded.result)},
        "difference": difference,
    }


def _json(result: str | bytes | None) -> object:
    """Returns a result as it is written into JSON: bytes as base64."""
    return msgspec.Raw(result.encode()) if isinstance(result, str) and result else result


def _debug(outcome: Outcome) -> None:
    """Opens a debugger where the handler has failed."""
    error = outcome.error
    if error is None or error.__traceback__ is None:
        click.echo("--pdb: nothing was raised, so there is no place to look at; --break opens a debugger at the start")
        return
    import pdb  # noqa: T100 - it was asked for

    traceback.print_exception(error)
    pdb.post_mortem(error.__traceback__)
