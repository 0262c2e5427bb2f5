"""The board of handlers: what each one does, how long it takes, what fails."""

from __future__ import annotations

from board_cluster import HERE, INSTANCES, JOB, JOBS
from board_parts import Panel, board, lines, quantiles, query, rows, variable
from board_queues import QUEUES
from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

CHOSEN = f'{JOB}, queue=~"$queue", handler=~"$handler"'
CHOSEN_HERE = f'{HERE}, queue=~"$queue", handler=~"$handler"'
HANDLERS = (
    'label_values({__name__=~"gowork_tasks_submitted_total|gowork_tasks_finished_total", '
    'job=~"$job", queue=~"$queue"}, handler)'
)


def handlers() -> Dashboard:
    """The board for people who write handlers."""
    made = board(
        "gowork-handlers",
        "gowork: handlers",
        "What each handler does, how long it takes, what it costs and what fails.",
        [
            variable("job", JOBS),
            variable("instance", INSTANCES),
            variable("queue", QUEUES),
            variable("handler", HANDLERS),
        ],
    )
    made = made.with_panel(_overview())
    for title, panels in {"Failures": _failures(), "Time": _time()}.items():
        made = made.with_row(Row(title))
        for panel in panels:
            made = made.with_panel(panel)
    return made


def _overview() -> Panel:
    buckets = f"sum by (handler, le) (rate(gowork_task_execution_seconds_bucket{{{CHOSEN_HERE}}}[5m]))"
    return rows(
        "Handlers now",
        "Who fails and who is slow. `gowork tasks --status ERROR --handler NAME` shows what its failures say.",
        "handler",
        [
            (
                "finished",
                "ops",
                f"sum by (handler) (job_queue_handler_status:gowork_tasks_finished:rate5m{{{CHOSEN}}})",
            ),
            (
                "failing",
                "percentunit",
                f"max by (handler) (job_queue_handler:gowork_tasks_finished:failed_ratio15m{{{CHOSEN}}})",
            ),
            ("half within", "s", f"histogram_quantile(0.5, {buckets})"),
            ("99 % within", "s", f"histogram_quantile(0.99, {buckets})"),
            (
                "slots used",
                "short",
                f"sum by (handler) (rate(gowork_task_execution_seconds_sum{{{CHOSEN_HERE}}}[5m]))",
            ),
        ],
    )


def _failures() -> list[Panel]:
    return [
        lines(
            "Failing, by handler",
            "The share of a handler's tasks that ended in an error, all attempts used up, in 15 minutes. See "
            "GoworkFailureRatio in the runbook.",
            "percentunit",
            query(
                f"max by (queue, handler) (job_queue_handler:gowork_tasks_finished:failed_ratio15m{{{CHOSEN}}})",
                "{{handler}} ({{queue}})",
            ),
            limit=0.1,
        ),
        lines(
            "Finished, by status",
            "Errors that rise with everything else come from the load. Errors that rise alone come from the handler, "
            "or from what it calls.",
            "ops",
            query(
                f"sum by (handler, status) (job_queue_handler_status:gowork_tasks_finished:rate5m{{{CHOSEN}}})",
                "{{handler}}: {{status}}",
            ),
            stacked=True,
        ),
        lines(
            "Attempts run, by how they ended",
            "If more attempts run than tasks finish, tasks are tried again. Attempts that fail and are repeated cost "
            "slots: look at what they raise (`gowork show ID`).",
            "ops",
            query(
                "sum by (handler, status) "
                f"(rate(gowork_task_execution_seconds_count{{{CHOSEN_HERE}}}[$__rate_interval]))",
                "{{handler}}: {{status}}",
            ),
        ),
        lines(
            "Submitted, by outcome",
            "Duplicates are clients that try again, and harmless. Refused ones: the store is full, or a client is "
            "wrong.",
            "ops",
            query(
                f"sum by (handler, outcome) (rate(gowork_tasks_submitted_total{{{CHOSEN_HERE}}}[$__rate_interval]))",
                "{{handler}}: {{outcome}}",
            ),
        ),
    ]


def _time() -> list[Panel]:
    return [
        lines(
            "How long attempts run",
            "Give it a time limit well above the upper line. Points lead to traces: a slow one shows what the "
            "handler waited for.",
            "s",
            *quantiles("gowork_task_execution_seconds", CHOSEN_HERE, 0.5, 0.99, by="handler"),
        ),
        lines(
            "Slots used",
            "How many slots each handler keeps busy on average. Make the one at the top faster, or give it a queue "
            "with a limit (`gowork queues set NAME --concurrency N`).",
            "short",
            query(
                f"sum by (handler) (rate(gowork_task_execution_seconds_sum{{{CHOSEN_HERE}}}[$__rate_interval]))",
                "{{handler}}",
            ),
            stacked=True,
        ),
    ]
