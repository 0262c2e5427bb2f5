"""The limits of the wire contract, each with its unit, in one place.

A refusal names the limit and its number, so that the sender knows what to change.
"""

#: Longest task or member id, in bytes of UTF-8.
ID_BYTES_MAX = 256
#: Longest unique key of a task, in bytes of UTF-8, and how many such keys may be taken at once, over all queues.
UNIQUE_KEY_BYTES_MAX = 256
UNIQUE_KEYS_MAX = 1_000_000
#: Longest queue or handler name, in bytes of UTF-8.
NAME_BYTES_MAX = 128
#: Largest payload (text or binary) and largest result, in bytes.
PAYLOAD_BYTES_MAX = 1 << 20
#: Longest W3C traceparent and tracestate of a task, in bytes. A traceparent of version 00 has 55; later ones may have
#: more.
TRACEPARENT_BYTES_MAX = 100
TRACESTATE_BYTES_MAX = 512
#: Most labels of a task, a selector or a member, and the longest key and value, in bytes of UTF-8.
LABELS_MAX = 64
LABEL_KEY_BYTES_MAX = 63
LABEL_VALUE_BYTES_MAX = 253
#: Most tasks in one ScheduleTasks call, and ids in one WaitTasks call.
BATCH_TASKS_MAX = 10_000
#: Most tasks that a handler may schedule with its completion.
FOLLOW_UPS_MAX = 1_000
#: Most rows of one message of completions by columns.
COMPLETIONS_ROWS_MAX = 10_000
#: Most such messages in one frame of a worker. One is enough for each set of columns and each 10,000 rows.
FRAME_COMPLETIONS_MAX = 100
#: Most reports in one frame of a worker, with the rows of completions, and most messages of progress. As many tasks as
#: that are the most that one worker holds.
FRAME_REPORTS_MAX = 100_000
#: Most bytes of one ScheduleTasks call.
BATCH_BYTES_MAX = 4 << 20
#: Most tasks or members on one page, and how many a page has when the caller names no number.
PAGE_ITEMS_MAX = 10_000
PAGE_ITEMS_DEFAULT = 1_000
#: Most bytes of one page, and of a response that has no pages.
PAGE_BYTES_MAX = 3 << 20
#: Most queues, and most failed tasks, in one response of Activity.
ACTIVITY_QUEUES_MAX = 1_000
FAILURES_MAX = 100
#: Longest filter expression, in bytes.
FILTER_BYTES_MAX = 4096
#: Most worker sessions on one leader.
SESSIONS_MAX = 10_000
#: Largest gRPC message, in bytes.
MESSAGE_BYTES_MAX = 8 << 20
#: The longest budget of a drain, in milliseconds.
DRAIN_BUDGET_MS_MAX = 24 * 3600 * 1000
#: The longest wait for a leader of a later term, in milliseconds.
LEADERS_WAIT_MS_MAX = 10_000
#: Most slots of one worker.
SLOTS_MAX = 10_000
#: Most predecessors that a worker may prove to have ended.
ENDED_INSTANCES_MAX = 16
#: Most queues that a worker may name.
WORKER_QUEUES_MAX = 64
#: Most handlers that a worker may offer.
HANDLERS_MAX = 10_000
#: How many plugin errors of a worker are kept, and how many bytes of each.
PLUGIN_ERRORS_MAX = 64
PLUGIN_ERROR_BYTES_MAX = 1024
#: Longest form of a handler (HandlerInfo.form), in bytes.
HANDLER_FORM_BYTES_MAX = 64
#: Longest name and version of a plugin, in bytes of UTF-8.
PLUGIN_NAME_BYTES_MAX = 128
#: Longest range of versions that a task may ask for (Task.plugin_version), in bytes.
PLUGIN_RANGE_BYTES_MAX = 128
#: Largest description of a handler (HandlerDescription.text), in bytes, and the hex digits of its digest.
HANDLER_DESCRIPTION_BYTES_MAX = 64 << 10
HANDLER_DIGEST_DIGITS = 32
#: How many workers are named for each version of a handler.
HANDLER_WORKERS_NAMED_MAX = 100
#: Most attempts that a retry policy may ask for, its longest delay in milliseconds, and its largest factor.
ATTEMPTS_MAX = 1_000
RETRY_DELAY_MS_MAX = 7 * 24 * 3600 * 1000
RETRY_FACTOR_MAX = 100.0
#: The latest moment that a task may name, in milliseconds since the Unix epoch: the start of the year 9999 in UTC.
#: Later moments have no date in some time zones.
TIME_MS_MAX = 253_370_764_800_000
#: How many tasks one task may come after.
AFTER_MAX = 1_000
#: How many unfinished tasks may come after others, and how many ids they may name in all.
DEPENDENTS_MAX = 200_000
#: How many children a group may have.
CHILDREN_MAX = 10_000_000
EDGES_MAX = 1_000_000
#: The longest time limit, delay, and time until an expiry, in milliseconds: 10 years.
DURATION_MS_MAX = 10 * 366 * 24 * 3600 * 1000
#: The longest delay that a handler may ask for, in milliseconds; a longer one is cut to it.
REPORTED_DELAY_MS_MAX = DURATION_MS_MAX
#: The longest time for which finished tasks may be kept, in days, and the most of them that may be kept.
RETAIN_DAYS_MAX = 36_500.0
RETAIN_TASKS_MAX = 1_000_000_000
#: Most exception types that a retry policy may name in no_retry.
NO_RETRY_NAMES_MAX = 64
#: How many attempts of each task are kept: the last ones.
ATTEMPTS_KEPT = 20
#: Most bytes of a failure's message and traceback, and of a message of progress.
FAILURE_MESSAGE_BYTES_MAX = 4096
FAILURE_TRACEBACK_BYTES_MAX = 16384
PROGRESS_MESSAGE_BYTES_MAX = 1024
#: What a handler hands on to the next attempt of its task, as it travels.
CHECKPOINT_BYTES_MAX = 64 * 1024
#: Most pending tasks in a SQLite store.
PENDING_TASKS_MAX = 10_000_000
#: Most queues that may have settings of their own, and the bounds of these settings. Rates are in starts per second.
QUEUES_CONFIGURED_MAX = 10_000
QUEUE_WEIGHT_MAX = 1_000
QUEUE_LIMIT_MAX = 1_000_000
QUEUE_RATE_MIN = 0.001
QUEUE_RATE_MAX = 1_000_000.0
#: Most schedules, and most bytes of their tasks together.
SCHEDULES_MAX = 10_000
SCHEDULES_BYTES_MAX = 64 << 20
#: Longest cron expression, in bytes.
CRON_BYTES_MAX = 256
#: Most single times of a schedule.
SCHEDULE_TIMES_MAX = 1_000
#: The bounds of the window in which missed ticks are made late, and its default, in milliseconds.
CATCH_UP_MS_MIN = 10_000
CATCH_UP_MS_DEFAULT = 3600 * 1000
#: The longest time by which the tasks of a tick are spread, in milliseconds.
JITTER_MS_MAX = 24 * 3600 * 1000
#: How many runs of a schedule are kept, and how many next ticks are answered.
SCHEDULE_RUNS_KEPT = 10
SCHEDULE_NEXT_MAX = 10
#: How many tasks of a schedule may be unfinished, where its overlap policy looks at them.
SCHEDULE_UNFINISHED_MAX = 100
#: Most ticks that one call of BackfillSchedule makes.
BACKFILL_TICKS_MAX = 1_000
#: Longest id of a call of TriggerSchedule, and reason of a pause, in bytes.
REQUEST_ID_BYTES_MAX = 64
PAUSE_REASON_BYTES_MAX = 1024
#: Most schedules that a handler declares, and that a worker does.
HANDLER_SCHEDULES_MAX = 16
WORKER_SCHEDULES_MAX = 1_000
