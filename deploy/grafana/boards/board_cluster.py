"""The board of the cluster: whether it is healthy, where work waits, what fails, and how leader and store do."""

from __future__ import annotations

from board_parts import BLUE, GREEN, ORANGE, RED, Panel, board, lines, number, quantiles, query, rows, variable
from grafana_foundation_sdk.builders.dashboard import Dashboard, Row

JOB = 'job=~"$job"'
HERE = 'job=~"$job", instance=~"$instance"'
JOBS = 'label_values({__name__=~"gowork_leader_is_leader|gowork_worker_slots"}, job)'
INSTANCES = 'label_values({__name__=~"gowork_leader_is_leader|gowork_worker_slots", job=~"$job"}, instance)'


def cluster() -> Dashboard:
    """The board to look at first."""
    made = board(
        "gowork-cluster",
        "gowork: cluster",
        "Is the cluster healthy, where do tasks wait and why, what fails? The first row answers; the rest says why.",
        [variable("job", JOBS), variable("instance", INSTANCES)],
    )
    for panel in (*_health(), _firing()):
        made = made.with_panel(panel)
    sections = {
        "Tasks": _tasks(),
        "Members": _members(),
        "Leader and store": _leader(),
        "Log": _log(),
        "Certificates": _certificates(),
    }
    for title, panels in sections.items():
        made = made.with_row(Row(title))
        for panel in panels:
            made = made.with_panel(panel)
    return made


def _health() -> list[Panel]:
    return [
        number(
            "Leader",
            "One leads. With none nothing is scheduled: see GoworkNoLeader in the runbook. Two for longer than a "
            "moment: look at which of them the workers are connected to, and stop the other.",
            "short",
            f"sum(gowork_leader_is_leader{{{JOB}}})",
            [(None, RED), (1, GREEN), (2, ORANGE)],
            words={"none": "NONE", "0": "NONE", "1": "leads"},
        ),
        number(
            "Live workers",
            "Members that take tasks. Fewer than you started: `gowork members` shows who is missing.",
            "short",
            f'sum(job_state:gowork_members:max{{{JOB}, state="live"}})',
            [(None, RED), (1, GREEN)],
        ),
        number(
            "Blocked, or lost within 15 min",
            "`gowork members` shows who; see GoworkWorkersBlocked and GoworkWorkersLost in the runbook. Lost tasks "
            "run again by themselves.",
            "short",
            f'sum(job_state:gowork_members:max{{{JOB}, state="blocked"}}) + sum(job_state:gowork_members:max{{{JOB}, '
            f'state="lost"}} - min_over_time(job_state:gowork_members:max{{{JOB}, state="lost"}}[15m]))',
            [(None, GREEN), (1, RED)],
        ),
        number(
            "Tasks waiting",
            "Pending tasks that are due. Many are no harm while the next number stays low; which reason holds them "
            "is below.",
            "short",
            f'sum(job_queue_reason:gowork_queue_waiting_tasks:max{{{JOB}, reason!="delayed"}}) or vector(0)',
            [(None, BLUE)],
        ),
        number(
            "Oldest that could run",
            "How long the oldest runnable task has waited. When it grows, the workers don't keep up: see "
            "GoworkQueueOld in the runbook, and the board of queues for which queue it is.",
            "s",
            f"max(gowork_queue_oldest_seconds{{{JOB}}}) or vector(0)",
            [(None, GREEN), (60, ORANGE), (600, RED)],
        ),
        number(
            "Failing",
            "The share of the last 15 minutes' tasks that ended in an error. The board of handlers shows which; "
            "`gowork tasks --status ERROR` shows why.",
            "percentunit",
            f'(sum(rate(gowork_tasks_finished_total{{{JOB}, status="error"}}[15m])) or vector(0)) / '
            f'(sum(rate(gowork_tasks_finished_total{{{JOB}, status!="cancelled"}}[15m])) > 0)',
            [(None, GREEN), (0.01, ORANGE), (0.1, RED)],
            words={"none": "idle"},
        ),
    ]


def _firing() -> Panel:
    return rows(
        "Alerts that fire",
        "Each has a section of its name in docs/runbook.md. Empty is good, as long as Prometheus has loaded the rules.",
        "alertname",
        [
            (
                "firing",
                "short",
                'sum by (alertname, severity, queue, handler, reason) (ALERTS{alertname=~"Gowork.+", '
                'alertstate="firing"})',
            )
        ],
    )


def _tasks() -> list[Panel]:
    return [
        lines(
            "Waiting, by reason",
            "`next` is about to start, `no_slot` waits for busy workers, `delayed` for its time. no_handler, "
            "selector, queue_not_taken, plugin_version, draining and unfit need a worker that is not there; "
            "unreachable and member_failed need callback workers that work; queue_paused and the limits were set "
            "by somebody. "
            "`gowork why ID` tells the reason of one task.",
            "short",
            query(f"sum by (reason) (job_queue_reason:gowork_queue_waiting_tasks:max{{{JOB}}})", "{{reason}}"),
            stacked=True,
        ),
        lines(
            "Submitted and finished",
            "When more comes in than finishes for long, the queues grow: add workers, or see what limits them.",
            "ops",
            query(
                f"sum by (outcome) (rate(gowork_tasks_submitted_total{{{HERE}}}[$__rate_interval]))", "in: {{outcome}}"
            ),
            query(
                f"sum by (status) (job_queue_handler_status:gowork_tasks_finished:rate5m{{{JOB}}})", "out: {{status}}"
            ),
        ),
        lines(
            "Attempts that did not count, and reports that came too late",
            "Tasks that went back because their worker was lost, drained or killed a neighbour; reports of workers "
            "that were given up; settings of runners that handlers had changed. A few follow every network failure; a "
            "stream of them: see GoworkStaleReports in the runbook.",
            "ops",
            query(
                f"sum by (reason) (rate(gowork_tasks_reassigned_total{{{HERE}}}[$__rate_interval]))", "back: {{reason}}"
            ),
            query(f"sum(rate(gowork_stale_reports_total{{{HERE}}}[$__rate_interval]))", "stale reports"),
            query(f"sum(rate(gowork_worker_runners_lost_total{{{HERE}}}[$__rate_interval]))", "runners lost"),
            query(
                f"sum by (setting) (rate(gowork_worker_settings_restored_total{{{HERE}}}[$__rate_interval]))",
                "restored: {{setting}}",
            ),
        ),
        lines(
            "Put into quarantine",
            "Tasks that killed their process each time they ran, in the last hour. `gowork show ID` tells by which "
            "signal; see GoworkTasksQuarantined in the runbook.",
            "short",
            query(f"sum(increase(gowork_tasks_quarantined_total{{{HERE}}}[1h]))", "in an hour"),
        ),
    ]


def _members() -> list[Panel]:
    return [
        lines(
            "Members, by state",
            "Blocked workers answer while a handler holds their loop; lost ones stay listed until one of their name "
            "returns.",
            "short",
            query(f"sum by (state) (job_state:gowork_members:max{{{JOB}}})", "{{state}}"),
            stacked=True,
        ),
        lines(
            "Slots",
            "Busy at the top of the stack: more workers or `--slots`. Free while tasks wait: they wait for something"
            " else, see above.",
            "short",
            query(f"sum by (state) (gowork_worker_slots{{{HERE}}})", "{{state}}"),
            stacked=True,
        ),
        lines(
            "Time between heartbeats",
            "3.3 s is normal. After 6.7 s a worker reconnects, and after 10 s its lease ends. See "
            "GoworkHeartbeatGaps in the runbook.",
            "s",
            *quantiles("gowork_worker_heartbeat_gap_seconds", HERE, 0.5, 0.99),
            query(f"max(job:gowork_worker_heartbeat_gap_seconds:p99_5m{{{JOB}}})", "what the alert sees"),
            limit=5,
        ),
        lines(
            "Heartbeats",
            "In a healthy cluster all are accepted. Refused ones come from members that the leader does not know: "
            "they have to join again.",
            "ops",
            query(f"sum by (result) (rate(gowork_worker_heartbeats_total{{{HERE}}}[$__rate_interval]))", "{{result}}"),
        ),
    ]


def _leader() -> list[Panel]:
    return [
        lines(
            "Commits",
            "Every answer, start and report waits for its commit. Slow ones: a disk of its own for the store; see "
            "GoworkCommitsSlow in the runbook. Points lead to traces.",
            "s",
            *quantiles("gowork_store_commit_seconds", HERE, 0.5, 0.99),
            query(f"max(job:gowork_store_commit_seconds:p99_5m{{{JOB}}})", "what the alert sees"),
            limit=0.5,
        ),
        lines(
            "Tasks in a commit",
            "Grows with the load, and that is how the leader keeps up. Large batches with slow commits: the disk is "
            "the limit.",
            "short",
            *quantiles("gowork_store_commit_tasks", HERE, 0.5, 0.99),
        ),
        lines(
            "RPCs by outcome",
            "UNAVAILABLE: no leader; RESOURCE_EXHAUSTED: the store is full; INVALID_ARGUMENT: somebody's client is "
            "wrong.",
            "reqps",
            query(
                f"sum by (code) (rate(rpc_server_call_duration_seconds_count{{{HERE}}}[$__rate_interval]))",
                "{{code}}",
            ),
        ),
        lines(
            "RPCs, 99 in 100 faster than this",
            "Waits and streams last as long as what they wait for. ScheduleTasks slower than commits: the leader has"
            " too little processor time. Points lead to traces.",
            "s",
            *quantiles("rpc_server_call_duration_seconds", HERE, 0.99, by="method"),
        ),
        lines(
            "Term, and changes of leader in an hour",
            "The term grows with every start and every change of leader. More than one of either in an hour that "
            "nobody made: look at the leaders' logs, and at the network between them.",
            "short",
            query(f"max(gowork_leader_term{{{HERE}}})", "term"),
            query(f"max(changes(gowork_leader_term{{{HERE}}}[1h]))", "changes in an hour"),
            query(f"sum(increase(gowork_leader_transitions_total{{{HERE}}}[1h]))", "came or ceased to lead"),
        ),
        lines(
            "Without a leader at a change",
            "How long leaders that run now took on average, from when they could lead until they served. Workers go on "
            "meanwhile; nothing new starts. Longer than a few seconds: is the store's disk slow?",
            "s",
            query(
                f"sum(gowork_leader_failover_seconds_sum{{{HERE}}}) / "
                f"(sum(gowork_leader_failover_seconds_count{{{HERE}}}) > 0)",
                "average",
            ),
        ),
        lines(
            "Age of the oldest finished task",
            "Grows to the retention, 7 days, and stays there. If it stays below an hour, more tasks finish than fit: "
            "see GoworkRetentionPressure in the runbook.",
            "s",
            query(f"max(gowork_retention_oldest_seconds{{{JOB}}})", "oldest"),
        ),
        lines(
            "Unique keys that are taken",
            "At the limit, tasks with further keys are refused. If it only grows, a `unique_for` is longer than "
            "needed.",
            "short",
            query(f"max(gowork_unique_keys{{{JOB}}})", "keys"),
            limit=1_000_000,
        ),
    ]


def _log() -> list[Panel]:
    return [
        lines(
            "Entries that leaders are behind",
            "Where leaders share a log: how far each store is behind it. One that stays behind could not take over at "
            "once: see GoworkLeaderBehind in the runbook.",
            "short",
            query(f"max by (instance) (gowork_log_lag_entries{{{HERE}}})", "{{instance}}"),
            limit=1000,
        ),
        lines(
            "Entries that the log keeps",
            "Entries are pruned when most stores have them on disk. A number that only grows: `gowork leaders` shows "
            "which store is not forced, or not there.",
            "short",
            query(
                f"max(gowork_log_last_index{{{HERE}}}) - max(gowork_log_first_index{{{HERE}}}) + 1",
                "entries in the log",
            ),
            query(
                f"scalar(max(gowork_log_last_index{{{HERE}}})) - max by (instance) (gowork_log_forced_index{{{HERE}}})",
                "not forced: {{instance}}",
            ),
        ),
        lines(
            "Entries that stores apply",
            "How many entries each store applies in a second. Those that follow apply as many as the one that leads, "
            "or they fall behind.",
            "ops",
            query(f"max by (instance) (deriv(gowork_log_applied_index{{{HERE}}}[5m]))", "{{instance}}"),
        ),
        lines(
            "Size of the log",
            "At 256 MiB the leader prunes what most stores lack, or refuses what is new: see GoworkLogOneCopy and "
            "GoworkLogFull in the runbook.",
            "bytes",
            query(f"max(gowork_log_bytes{{{HERE}}})", "entries"),
        ),
        lines(
            "Silence of the log, and leaders",
            "How long the log has not answered each leader: see GoworkLogSilent in the runbook. Fewer leaders that "
            "answer than are registered: see GoworkLeaderAbsent.",
            "short",
            query(f"max by (instance) (gowork_log_silent_seconds{{{HERE}}})", "silent: {{instance}}, s"),
            query(f"max(gowork_log_leaders{{{JOB}}})", "registered leaders"),
            query(f"max(gowork_log_full{{{JOB}}})", "1: the log has no room"),
            query(f"max(gowork_log_one_copy{{{JOB}}})", "1: one copy"),
            query(f"sum(gowork_log_diverged_total{{{JOB}}})", "stores that differed"),
        ),
        lines(
            "The newest shared snapshot",
            "With --snapshots: how long ago it was taken, as each leader sees it, and 0 while the log has nothing "
            "more; and how many entries it lacks. See GoworkSnapshotsOld in the runbook.",
            "short",
            query(f"max by (instance) (gowork_log_snapshot_age_seconds{{{HERE}}})", "age: {{instance}}, s"),
            query(
                f"scalar(max(gowork_log_last_index{{{HERE}}})) - "
                f"max by (instance) (gowork_log_snapshot_index{{{HERE}}})",
                "lacks: {{instance}}",
            ),
        ),
    ]


def _certificates() -> list[Panel]:
    return [
        lines(
            "Time until the first certificate expires",
            "By instance and file: `cert` is the own one, `ca` and `client_ca` are authorities. Below seven days: see "
            "GoworkCertificateExpires in the runbook. Empty where there is no TLS.",
            "s",
            query(
                f"min by (instance, file) (gowork_tls_certificate_expiry_timestamp_seconds{{{HERE}}}) - time()",
                "{{instance}}: {{file}}",
            ),
            limit=604800,
        ),
        lines(
            "New files that are refused",
            "1 while an instance can't use its new files, and goes on with the old ones: see GoworkCertificatesRefused "
            "and GoworkAccessFileRefused in the runbook.",
            "short",
            query(f"max by (instance) (gowork_tls_refused{{{HERE}}})", "{{instance}}: certificates"),
            query(f"max by (instance) (gowork_access_refused{{{HERE}}})", "{{instance}}: access file"),
        ),
        lines(
            "Calls that were refused because of who made them",
            "A minute, by reason. CALLER_LIMIT: their caller had reached a limit. See GoworkCallsRefused in the "
            "runbook. Empty where nobody asks who calls.",
            "short",
            query(f"sum by (reason) (rate(gowork_calls_refused_total{{{HERE}}}[$__rate_interval])) * 60", "{{reason}}"),
        ),
    ]
