"""Queues share the slots, keep their limits, and starve nobody."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from leader_core import WALL_MS, Core, spec

from gowork.leader._core import commands as cmd
from gowork.leader._core.clock import next_token
from gowork.leader._core.model import Outcome, Priority, QueueSettings, Status


def core_with(queue: str = "default", **settings: Any) -> Core:
    core = Core()
    core.do(cmd.ConfigureQueue(queue, **settings))
    return core


def granted(core: Core) -> list[str]:
    return [id for ids in core.dispatch().values() for id in ids]


def finish(core: Core, connection: int, ids: list[str], credit: int) -> None:
    for id in ids:
        core.report(connection, id)
    core.do(cmd.ReceiveFrame(connection, credit=core.state.connections[connection].granted + credit))


def test_queues_share_the_slots_by_their_weights():
    core = core_with("heavy", weight=3)
    core.submit(*(spec(f"h{n}", queue="heavy") for n in range(100)))
    core.submit(*(spec(f"l{n}", queue="light") for n in range(100)))
    core.connect(slots=40)
    assert Counter(id[0] for id in granted(core)) == {"h": 30, "l": 10}


def test_shares_hold_over_many_small_rounds():
    core = core_with("heavy", weight=3)
    core.submit(*(spec(f"h{n}", queue="heavy") for n in range(100)))
    core.submit(*(spec(f"l{n}", queue="light") for n in range(100)))
    connection = core.connect(slots=1)
    had: Counter[str] = Counter()
    for _ in range(40):
        ids = granted(core)
        had.update(id[0] for id in ids)
        finish(core, connection, ids, 1)
    assert had == {"h": 30, "l": 10}


def test_a_queue_that_had_nothing_to_do_has_no_claim_on_the_time_before():
    core = Core()
    core.submit(*(spec(f"a{n}", queue="a") for n in range(100)))
    connection = core.connect(slots=1)
    for _ in range(50):
        finish(core, connection, granted(core), 1)
    core.submit(*(spec(f"b{n}", queue="b") for n in range(100)))
    had: Counter[str] = Counter()
    for _ in range(20):
        ids = granted(core)
        had.update(id[0] for id in ids)
        finish(core, connection, ids, 1)
    assert had["a"] == pytest.approx(10, abs=1)


def test_a_paused_queue_starts_nothing_and_holds_up_no_other():
    core = Core()
    core.do(cmd.PauseQueue("mail", True))
    core.submit(spec("m", queue="mail", priority=Priority.HIGH), spec("d"))
    core.connect()
    assert granted(core) == ["d"]
    core.do(cmd.PauseQueue("mail", False))
    assert granted(core) == ["m"]


def test_a_pause_outlives_the_queues_last_task():
    core = Core()
    core.submit(spec("m", queue="mail"))
    core.do(cmd.PauseQueue("mail", True))
    core.do(cmd.Cancel("m"))
    core.submit(spec("n", queue="mail"))
    core.connect()
    assert granted(core) == []


def test_a_queue_runs_no_more_than_its_limit():
    core = core_with(concurrency_limit=2)
    core.submit(*(spec(str(n)) for n in range(5)), spec("other", queue="other"))
    connection = core.connect(slots=10)
    assert granted(core) == ["0", "other", "1"]
    assert granted(core) == []
    core.report(connection, "0")
    assert granted(core) == ["2"]


def test_a_key_runs_no_more_than_its_limit_whatever_the_priority_and_the_handler():
    core = core_with(key_concurrency_limit=1)
    core.submit(
        spec("a1", key="a"),
        spec("a2", key="a", priority=Priority.HIGH),
        spec("a3", key="a", handler="other"),
        spec("b1", key="b"),
        spec("plain"),
    )
    connection = core.connect(slots=10, handlers=("work", "other"))
    assert granted(core) == ["a2", "b1", "plain"]
    assert granted(core) == []
    core.report(connection, "a2")
    assert granted(core) == ["a1"]
    core.report(connection, "a1", Outcome.INTERRUPTED)
    assert granted(core) == ["a1"]
    core.report(connection, "a1")
    assert granted(core) == ["a3"]


def test_many_keys_that_are_held_back_hide_no_other():
    core = core_with(key_concurrency_limit=1)
    keys = [f"k{n}" for n in range(200)]
    connection = core.connect(slots=1000)
    core.submit(*(spec(f"{key}-{n}", key=key) for n in range(3) for key in keys))
    assert granted(core) == [f"{key}-0" for key in keys]
    core.submit(spec("free", key="another"))
    assert granted(core) == ["free"]
    core.report(connection, "k7-0")
    core.report(connection, "k3-0")
    assert granted(core) == ["k3-1", "k7-1"]


def test_keyed_and_plain_tasks_keep_the_order_of_their_submission():
    core = core_with(key_concurrency_limit=5)
    order = [spec("1", key="a"), spec("2"), spec("3", key="b"), spec("4", key="a"), spec("5"), spec("6", key="b")]
    core.submit(*order)
    core.connect(slots=10)
    assert granted(core) == ["1", "2", "3", "4", "5", "6"]


def test_a_limit_that_is_raised_or_lifted_takes_effect_at_once():
    core = core_with(key_concurrency_limit=1)
    core.submit(*(spec(f"a{n}", key="a") for n in range(4)))
    core.connect(slots=10)
    assert granted(core) == ["a0"]
    core.do(cmd.ConfigureQueue("default", key_concurrency_limit=2))
    assert granted(core) == ["a1"]
    core.do(cmd.ConfigureQueue("default", key_concurrency_limit=0))
    assert granted(core) == ["a2", "a3"]


def test_a_rate_is_kept_with_its_burst():
    core = core_with(rate_limit=2.0, rate_burst=3)
    core.submit(*(spec(str(n)) for n in range(20)))
    core.connect(slots=100)
    assert len(granted(core)) == 3
    assert granted(core) == []
    core.pass_time(0.4)
    assert granted(core) == []
    core.pass_time(0.1)
    assert len(granted(core)) == 1
    core.pass_time(9)
    assert len(granted(core)) == 3


def test_the_next_start_that_a_rate_allows_is_known_without_polling():
    core = core_with(rate_limit=2.0, rate_burst=1)
    assert next_token(core.state, core.mono) is None
    core.submit(spec("a"), spec("b"))
    core.connect(slots=1)
    granted(core)
    assert next_token(core.state, core.mono) == pytest.approx(core.mono + 0.5)
    core.pass_time(0.5)
    # A start is allowed, and only a free slot is missing: that comes by itself.
    assert next_token(core.state, core.mono) is None


def test_a_rate_that_is_set_again_gives_no_new_burst():
    core = core_with(rate_limit=1.0, rate_burst=2)
    core.submit(*(spec(str(n)) for n in range(9)))
    core.connect(slots=100)
    assert len(granted(core)) == 2
    core.do(cmd.ConfigureQueue("default", rate_limit=1.5))
    assert granted(core) == []


def test_high_before_low_until_low_has_starved_for_long():
    core = Core()
    core.submit(*(spec(f"low{n}") for n in range(3)))
    core.submit(*(spec(f"high{n}", priority=Priority.HIGH) for n in range(40)))
    connection = core.connect(slots=1)
    for n in range(20):
        ids = granted(core)
        assert ids == [f"high{n}"]
        finish(core, connection, ids, 1)
    core.wall_ms = WALL_MS + 60_000
    had: list[str] = []
    for _ in range(16):
        ids = granted(core)
        had += ids
        finish(core, connection, ids, 1)
    assert [id for id in had if id.startswith("low")] == ["low0", "low1"]


def test_settings_are_answered_and_what_is_not_named_stays():
    core = Core()
    core.do(cmd.ConfigureQueue("mail", weight=5))
    assert core.do(cmd.ConfigureQueue("mail", concurrency_limit=7)).answer == QueueSettings(
        weight=5, concurrency_limit=7
    )
    queue = core.state.queues.get("mail")
    assert queue is not None
    assert queue.settings.weight == 5
    core.do(cmd.ConfigureQueue("mail", weight=1, concurrency_limit=0))
    assert core.state.queues.get("mail") is None


def test_too_many_lanes_are_refused_and_nothing_is_taken():
    core = Core()
    core.state.settings.lanes_max = 3
    core.submit(spec("a", key="1"), spec("b", key="2"))
    answer = core.submit(spec("c", key="3"), spec("d", key="4"))
    assert isinstance(answer, cmd.Refused)
    assert (answer.code, "3" in answer.message) == (cmd.TOO_MANY_LANES, True)
    assert "c" not in core.stored
    assert core.submit(spec("e", key="2"), spec("f", key="3")) == cmd.Submitted(2, 0)


@pytest.mark.parametrize("outcome", [Outcome.INTERRUPTED, Outcome.SNOOZED, Outcome.COMPLETED, Outcome.CANCELLED])
def test_limits_count_what_runs_whatever_ends_it(outcome: Outcome):
    core = core_with(concurrency_limit=1, key_concurrency_limit=1)
    core.submit(spec("a", key="k"), spec("b", key="k"))
    connection = core.connect(slots=10)
    granted(core)
    core.report(connection, "a", outcome, retry_delay_ms=5000)
    assert len(granted(core)) == 1
    queue = core.state.queues.get("default")
    assert queue is not None
    assert (queue.running, queue.keys) == (1, {"k": 1})


def test_a_restart_counts_what_still_runs():
    core = core_with(concurrency_limit=1)
    core.submit(spec("a"), spec("b"))
    core.connect(slots=10)
    granted(core)
    core.restart()
    core.do(cmd.ConfigureQueue("default", concurrency_limit=1))
    core.connect("w1", slots=10, held=(cmd.HeldTask("a", core.standing("a").fence, False),))
    assert granted(core) == []
    assert core.status("a") is Status.RUNNING
