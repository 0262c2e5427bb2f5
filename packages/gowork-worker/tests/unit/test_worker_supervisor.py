from __future__ import annotations

import signal
from typing import Any

import pytest

from gowork.worker import ConfigurationError
from gowork.worker._core.options import Options, default_name
from gowork.worker._core.selection import Selection
from gowork.worker._fleet.process import describe_exit
from gowork.worker._runner import messages
from gowork.worker._supervisor.measures import EXECUTIONS_MAX, HANDLERS_MAX, OTHER, QUEUES_MAX, Measures


def test_end_of_a_process_is_put_in_words() -> None:
    assert describe_exit(3) == "the runner exited with code 3"
    assert describe_exit(-signal.SIGSEGV) == "the runner was killed by signal 11 (SIGSEGV)"
    assert describe_exit(-99) == "the runner was killed by signal 99 (unknown)"


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"slots": 0}, "slots is 1 to 10,000"),
        ({"slots": 10_001}, "slots"),
        ({"slots": 2.5}, "slots: 2.5 is no whole number"),
        ({"drain_timeout": float("nan")}, "drain_timeout is 0 to 86,400, not nan"),
        ({"drain_timeout": float("inf")}, "drain_timeout"),
        ({"runners": -1}, "runners"),
        ({"name": ""}, "name"),
        ({"name": "a\tb"}, "printable"),
        ({"name": "a\udcff"}, "name: 'a.udcff' is not UTF-8 text"),
        ({"labels": {"": "x"}}, "label"),
        ({"labels": {"k": 1}}, "label 'k': 1 is no text"),
        ({"labels": {"k": "\udcff"}}, "label 'k': .* is not UTF-8 text"),
        ({"labels": {"\udcff": "v"}}, "a label's key: .* is not UTF-8 text"),
        ({"selection": Selection(default_handler="\udcff")}, "default_handler: .* is not UTF-8 text"),
        ({"selection": Selection(plugins=("\udcff",))}, "plugins: .* is not UTF-8 text"),
        ({"selection": Selection(handlers=("\udcff",))}, "handlers: .* is not UTF-8 text"),
        ({"selection": Selection(imports=("\udcff",))}, "imports: .* is not UTF-8 text"),
        ({"labels": {"k": "x" * 254}}, "253"),
        ({"labels": {str(number): "" for number in range(65)}}, "64"),
    ],
)
def test_options_that_cannot_be_are_named(options: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigurationError, match=word):
        Options(**options)


def test_default_names_differ() -> None:
    assert default_name() != default_name()


def test_executions_add_up() -> None:
    measures = Measures()
    row = messages.ExecutedRow("q", "h", "completed", (1,) + (0,) * 9 + (2,), 1.5)
    measures.executed([row])
    measures.executed([row])
    buckets = measures.executions["q", "h", "completed"]
    assert (buckets.counts[0], buckets.counts[-1], buckets.total) == (2, 4, 3.0)


def executed(queue: str, handler: str, status: str = "completed", trace_id: str = "") -> messages.ExecutedRow:
    traced = (messages.TracedRow(0, trace_id, 0.5, 7.0),) if trace_id else ()
    return messages.ExecutedRow(queue, handler, status, (1,) + (0,) * 10, 0.5, traced)


def test_queues_and_handlers_beyond_the_first_are_counted_as_others() -> None:
    measures = Measures()
    measures.executed(executed(f"q{number}", "h") for number in range(QUEUES_MAX + 5))
    measures.executed(executed("q1", f"h{number}") for number in range(HANDLERS_MAX + 5))
    assert measures.executions[OTHER, "h", "completed"].counts[0] == 5
    assert measures.executions["q1", OTHER, "completed"].counts[0] == 6
    measures.executed([executed("q1", "h")])
    assert measures.executions["q1", "h", "completed"].counts[0] == 2


def test_combinations_of_queue_handler_and_status_are_bounded_and_none_is_lost() -> None:
    measures = Measures()
    rows = [executed(f"q{queue}", f"h{handler}") for queue in range(QUEUES_MAX) for handler in range(HANDLERS_MAX)]
    measures.executed(rows)
    assert len(measures.executions) == EXECUTIONS_MAX + 1
    assert sum(buckets.counts[0] for buckets in measures.executions.values()) == len(rows)


def test_the_last_traced_attempt_of_a_bucket_is_its_exemplar() -> None:
    measures = Measures()
    measures.executed([executed("q", "h", trace_id="aa"), executed("q", "h", trace_id="bb"), executed("q", "h")])
    assert measures.executions["q", "h", "completed"].exemplars == {0: ("bb", 0.5, 7.0)}
