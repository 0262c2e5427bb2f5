"""The board of queues and workers: which queue waits for what, and which worker does how much."""

from __future__ import annotations

from board_cluster import HERE, INSTANCES, JOB, JOBS
from board_parts import GREEN, RED, Panel, board, lines, quantiles, query, rows, states, variable
from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

QUEUE = f'{JOB}, queue=~"$queue"'
QUEUE_HERE = f'{HERE}, queue=~"$queue"'
QUEUES = 'label_values({__name__=~"gowork_queue_tasks|gowork_tasks_submitted_total", job=~"$job"}, queue)'


def queues() -> Dashboard:
    """The board of where tasks wait and why, and of what the workers do."""
    made = board(
        "gowork-queues",
        "gowork: queues and workers",
        "Which queue waits, for what, how long, and which workers work.",
        [variable("job", JOBS), variable("instance", INSTANCES), variable("queue", QUEUES)],
    )
    made = made.with_panel(_overview())
    for title, panels in {"Queues": _queues(), "Workers": _workers()}.items():
        made = made.with_row(Row(title))
        for panel in panels:
            made = made.with_panel(panel)
    return made


def _overview() -> Panel:
    waiting = f"sum by (queue) (job_queue_reason:gowork_queue_waiting_tasks:max{{{QUEUE}"
    return rows(
        "Queues now",
        "A queue whose oldest task ages has too few slots or waits for something: `without worker` needs a worker "
        "that is not there, `held` a limit or a pause to be lifted (`gowork queues`). `gowork why ID` tells the "
        "reason of one task.",
        "queue",
        [
            ("waiting", "short", f'{waiting}, reason!="delayed"}})'),
            (
                "without worker",
                "short",
                f'{waiting}, reason=~"no_handler|selector|queue_not_taken|plugin_version|draining|unreachable|'
                'member_failed|unfit"})',
            ),
            ("held", "short", f'{waiting}, reason=~"queue_paused|queue_limit|key_limit|rate_limit"}})'),
            ("oldest", "s", f"max by (queue) (gowork_queue_oldest_seconds{{{QUEUE}}})"),
            ("finished", "ops", f"sum by (queue) (job_queue_handler_status:gowork_tasks_finished:rate5m{{{QUEUE}}})"),
        ],
    )


def _queues() -> list[Panel]:
    return [
        lines(
            "Waiting, by queue and reason",
            "What holds the tasks of each queue. See GoworkTasksWithoutWorker, GoworkNoFreeSlots and "
            "GoworkTasksHeldByLimit in the runbook.",
            "short",
            query(
                f"sum by (queue, reason) (job_queue_reason:gowork_queue_waiting_tasks:max{{{QUEUE}}})",
                "{{queue}}: {{reason}}",
            ),
            stacked=True,
        ),
        lines(
            "Tasks, by queue and state",
            "What is stored and has not finished. Running tasks far below the slots while others are pending: look "
            "at the reasons.",
            "short",
            query(f"sum by (queue, state) (job_queue_state:gowork_queue_tasks:max{{{QUEUE}}})", "{{queue}}: {{state}}"),
            stacked=True,
        ),
        lines(
            "Age of the oldest task that could run",
            "Flat is good at any height that you can bear; a rising line means that the workers don't keep up with "
            "this queue. See GoworkQueueOld in the runbook.",
            "s",
            query(f"max by (queue) (gowork_queue_oldest_seconds{{{QUEUE}}})", "{{queue}}"),
            limit=600,
        ),
        lines(
            "From due to started",
            "How long tasks wait after they could run: milliseconds while slots are free. If one queue of many is "
            "slow, give it a higher priority or weight; if all are, add workers. Points lead to traces.",
            "s",
            *quantiles("gowork_task_schedule_to_start_seconds", QUEUE_HERE, 0.5, 0.99, by="queue"),
        ),
        lines(
            "Submitted and finished, by queue",
            "When more comes in than goes out for long, the queue grows: more workers, a higher weight, or fewer "
            "tasks.",
            "ops",
            query(
                f"sum by (queue) (rate(gowork_tasks_submitted_total{{{QUEUE_HERE}}}[$__rate_interval]))",
                "in: {{queue}}",
            ),
            query(
                f"sum by (queue) (job_queue_handler_status:gowork_tasks_finished:rate5m{{{QUEUE}}})", "out: {{queue}}"
            ),
        ),
        lines(
            "Attempts, by outcome",
            "Failed and timed-out attempts use up a task's attempts: `gowork show ID`. Lost and interrupted ones do "
            "not: look at the workers below.",
            "ops",
            query(
                f"sum by (outcome) (rate(gowork_task_attempts_total{{{QUEUE_HERE}}}[$__rate_interval]))", "{{outcome}}"
            ),
        ),
        lines(
            "Ticks of schedules, by outcome",
            "Skipped for an overlap: a run takes longer than the time between two ticks. See GoworkTicksMissed in the "
            "runbook for those that were missed or refused.",
            "ops",
            query(f"sum by (outcome) (rate(gowork_schedule_ticks_total{{{JOB}}}[$__rate_interval]))", "{{outcome}}"),
        ),
        lines(
            "Schedules",
            "How many there are, and for how many seconds a tick has been due whose task is not made. See "
            "GoworkTicksLate in the runbook.",
            "short",
            query(f"sum by (state) (gowork_schedules{{{JOB}}})", "{{state}}"),
            query(f"max(gowork_schedule_lag_seconds{{{JOB}}})", "seconds late"),
        ),
    ]


def _workers() -> list[Panel]:
    return [
        states(
            "Members",
            "Which member is there, and since when it is not. See GoworkWorkersLost in the runbook.",
            query(f"max by (worker) (gowork_member_up{{{JOB}}})", "{{worker}}"),
            {"0": ("away", RED), "1": ("there", GREEN)},
        ),
        lines(
            "Slots in use",
            "Share of each worker's slots. All at 100 %: more workers. One alone: do only its labels or handlers fit?",
            "percentunit",
            query(
                f'sum by (instance) (gowork_worker_slots{{{HERE}, state="busy"}}) / '
                f"(sum by (instance) (gowork_worker_slots{{{HERE}}}) > 0)",
                "{{instance}}",
            ),
        ),
        lines(
            "Lag of the runners' loops",
            "How late a worker's event loops are. Above a second a handler computes in `async def`: make it a plain "
            "`def`, or isolate it in a process. See GoworkWorkersBlocked in the runbook.",
            "s",
            *quantiles("gowork_worker_loop_lag_seconds", HERE, 0.99, by="instance"),
        ),
        lines(
            "Attempts run, by worker",
            "A worker that does less than the others: fewer slots, a slow host, or a plugin that failed to load "
            "(`gowork members`).",
            "ops",
            query(
                f"sum by (instance) (rate(gowork_task_execution_seconds_count{{{QUEUE_HERE}}}[$__rate_interval]))",
                "{{instance}}",
            ),
        ),
    ]
