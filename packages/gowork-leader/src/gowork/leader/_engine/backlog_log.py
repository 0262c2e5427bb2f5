"""Tells CloudWatch of the backlog, by lines of the log in its embedded metric format.

Whatever takes the log to CloudWatch Logs makes metrics of these lines, such as the log driver awslogs. So the leader
needs no permission, no library and no connection for them. Only the term that leads runs it.
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

from __future__ import annotations

import asyncio
import logging

from gowork.leader._core.backlog import Backlog, backlog
from gowork.leader._engine.blocked import NotServingError
from gowork.leader._engine.loop import Engine
from gowork.leader.log.protocol import LeadershipLostError
from gowork.leader.store.protocol import StoreError

_log = logging.getLogger(__name__)

NAMESPACE = "gowork"
#: How long it waits between two lines, and before the first, in seconds. CloudWatch adds up minutes, and each minute
#: should have a line. When a term begins, workers come back within seconds, and are no missing slots.
INTERVAL_SECONDS = 30.0


class BacklogLog:
    """Writes the lines of one term while `run` is awaited.

    Args:
        engine: of the term.
        cluster: the value of the metrics' dimension `Cluster`.
    """

    def __init__(self, engine: Engine, cluster: str) -> None:
        self._engine = engine
        self._cluster = cluster

    async def run(self, stopped: asyncio.Event) -> None:
        """Runs until `stopped` is set."""
        while not stopped.is_set():
            try:
                async with asyncio.timeout(INTERVAL_SECONDS):
                    await stopped.wait()
            except TimeoutError:
                await self._tell()

    async def _tell(self) -> None:
        now = self._engine.now()
        try:
            seen = await self._engine.read(lambda state: backlog(state, now))
        except (NotServingError, LeadershipLostError, StoreError):
            # The term ends, or its store takes nothing. A line that is missing is no scaling, which is right.
            return
        except Exception:  # noqa: BLE001 - a defect in counting must not end the leader
            _log.exception("backlog could not be counted")
            return
        _log.info("backlog", extra=embedded(seen, self._cluster, now.wall_ms))


def embedded(seen: Backlog, cluster: str, at_ms: int) -> dict[str, object]:
    """Returns the fields of the line. Those that `_aws` names become metrics; the others are for people.

    BusySlotsPercent is left out while there are no slots, because nothing is known then.
    """
    values: dict[str, float] = {
        "BacklogPerSlot": round(seen.per_slot, 3),
        "BacklogWithoutSlots": int(seen.has_no_slots),
    }
    if seen.slots:
        values["BusySlotsPercent"] = round(100 * seen.busy / seen.slots, 1)
    units = {name: "Percent" if name.endswith("Percent") else "Count" for name in values}
    declared = [{"Name": name, "Unit": unit} for name, unit in units.items()]
    return {
        "_aws": {
            "Timestamp": at_ms,
            "CloudWatchMetrics": [{"Namespace": NAMESPACE, "Dimensions": [["Cluster"]], "Metrics": declared}],
        },
        "Cluster": cluster,
        **values,
        "runnable_tasks": seen.runnable,
        "slots": seen.slots,
        "busy_slots": seen.busy,
    }
