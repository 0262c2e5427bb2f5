"""Each attempt keeps by which plugin, in which version, it was run."""

from __future__ import annotations

import msgspec
import pytest
from leader_core import Core, spec

from gowork.leader._core import commands as cmd
from gowork.leader._core.model import Attempt, Outcome, Plugin, Standing, Status
from gowork.leader.store.codec import decode_standing, encode_standing

OLD, NEW = Plugin("images", "1.2.0"), Plugin("images", "2.0.0")


def plugins(core: Core, id: str) -> list[Plugin | None]:
    return [attempt.plugin for attempt in core.standing(id).attempts]


@pytest.mark.parametrize("outcome", list(Outcome), ids=lambda outcome: outcome.name)
def test_an_attempt_keeps_its_plugin_however_it_ends(outcome: Outcome) -> None:
    core = Core()
    connection = core.connect(plugin=OLD)
    core.submit(spec("a"))
    core.dispatch()
    assert core.standing("a").plugin == OLD
    core.report(connection, "a", outcome)
    assert plugins(core, "a") == [OLD]
    assert core.standing("a").plugin is None


def test_completions_by_columns_keep_it_too() -> None:
    core = Core()
    connection = core.connect(plugin=OLD)
    core.submit(spec("a"))
    core.dispatch()
    columns = cmd.Completions(["a"], [core.standing("a").fence], [1], [""], [b""], [""])
    core.do(cmd.ReceiveFrame(connection, completions=(columns,)))
    assert (core.status("a"), plugins(core, "a")) == (Status.COMPLETED, [OLD])


def test_tasks_for_the_default_handler_keep_the_plugin_of_that() -> None:
    core = Core()
    core.connect(handlers=("work",), default="work", plugin=OLD)
    core.submit(spec("a", handler=""))
    core.dispatch()
    assert core.standing("a").plugin == OLD


def test_all_tasks_of_a_session_share_one_object() -> None:
    core = Core()
    core.connect(plugin=OLD)
    core.submit(spec("a"), spec("b"))
    core.dispatch()
    assert core.standing("a").plugin is core.standing("b").plugin is OLD


def test_the_plugin_is_that_of_the_grant_when_the_worker_connects_with_another_one() -> None:
    core = Core()
    core.connect(plugin=OLD)
    core.submit(spec("a"))
    core.dispatch()
    held = (cmd.HeldTask("a", core.standing("a").fence, False),)
    connection = core.connect(plugin=NEW, held=held)
    core.submit(spec("b"))
    core.dispatch()
    core.report(connection, "a")
    core.report(connection, "b")
    assert (plugins(core, "a"), plugins(core, "b")) == ([OLD], [NEW])


def test_a_new_leader_knows_the_plugin_of_what_ran_under_the_last_one() -> None:
    core = Core()
    core.connect(plugin=OLD)
    core.submit(spec("a"))
    core.dispatch()
    core.restart()
    core.pass_time(10.1)
    assert (core.status("a"), plugins(core, "a"), core.standing("a").plugin) == (Status.PENDING, [OLD], None)


def test_a_task_that_was_to_be_cancelled_keeps_it_when_its_worker_is_lost() -> None:
    core = Core()
    core.connect(plugin=OLD)
    core.submit(spec("a"))
    core.dispatch()
    core.do(cmd.Cancel("a"))
    core.pass_time(10.1)
    assert (core.status("a"), plugins(core, "a"), core.standing("a").plugin) == (Status.CANCELLED, [OLD], None)


def test_a_worker_that_tells_no_plugin_leaves_none() -> None:
    core = Core()
    connection = core.connect()
    core.submit(spec("a"))
    core.dispatch()
    core.report(connection, "a")
    assert plugins(core, "a") == [None]


def test_records_from_before_plugins_were_kept_are_read_as_without_one() -> None:
    whole = Standing(Status.RUNNING, 1, attempts=(Attempt(1, "w", 1, 2, Outcome.LOST, "", 3),))
    fields = msgspec.msgpack.decode(encode_standing(whole))
    del fields[Standing.__struct_fields__.index("plugin") :]
    (attempt,) = fields[Standing.__struct_fields__.index("attempts")]
    place = Attempt.__struct_fields__.index("plugin")
    assert attempt[place] is None
    del attempt[place:]
    assert decode_standing(msgspec.msgpack.encode(fields)) == whole


def test_an_older_leader_reads_what_this_one_writes() -> None:
    older = msgspec.defstruct("Older", ["number", "worker"], array_like=True)
    written = msgspec.msgpack.encode(Attempt(1, "w", 1, 2, Outcome.LOST, "", 3, "", OLD))
    assert msgspec.msgpack.decode(written, type=older) == older(1, "w")
