"""The rules of worker.v1.SessionService that a worker is tried by. docs/protocol.md says why each is there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

#: {rule: what the worker does}, in the order in which they are tried.
RULES: Mapping[str, str] = {
    "hello-first": "sends Hello in its first frame and in no other",
    "hello-valid": "introduces itself within the limits of the contract",
    "credit-given": "gives credit once it is welcomed",
    "frames-valid": "sends only what a leader takes: outcomes that exist, results up to 1 MiB, credit that never "
    "falls, and columns of one length, which Welcome has asked for",
    "report": "reports each grant once, by its id and fence, with how it ended and what came of it",
    "credit-renewed": "gives credit again as its tasks end, so that it gets more tasks than its first credit allowed",
    "batch": "takes as many grants in one frame as it gave credit for",
    "heartbeat": "sends an empty frame at least every heartbeat_ms",
    "ping": "answers each ping with a pong of the same number",
    "unknown-fields": "ignores fields that it does not know",
    "large-payload": "takes a payload of almost 1 MiB, and reports a result that is as large",
    "refused": "forgets a report that was refused, and goes on",
    "reconnect": "reconnects when its stream breaks, as the same instance",
    "held-finished": "lists a report that was not acknowledged as FINISHED when it reconnects",
    "resend": "after the next Welcome, sends each report again that was not acknowledged, unchanged",
    "forget": "forgets a report that was acknowledged: it is neither listed nor sent again",
    "credit-restarts": "counts its credit from zero in each session",
    "held-running": "goes on with running tasks when its stream breaks, lists them as RUNNING, and reports each once",
    "cancel-running": "stops a running task that is cancelled, and confirms that with a report",
    "cancel-with-grant": "confirms a cancel also when it comes in the frame of the grant, or before the task starts",
    "release": "stops a task that is released, and never reports it",
    "term": "leaves a leader whose term is lower than one it has seen",
    "silence": "gives up a stream that does not answer heartbeats, by the end of the lease, and connects again",
    "one-stream": "holds one stream at a time",
    "refusal": "tries again with pauses when its name is taken, or ends",
    "drain-announced": "says that it drains when it is asked to, and gives no more credit",
    "drain-finishes": "finishes its running tasks when it drains, within the budget",
    "drain-hands-back": "hands back, as INTERRUPTED, tasks that it is granted while it drains",
    "leave": "says that it leaves when all its reports are acknowledged, and does not come back",
}


class Verdict(StrEnum):
    """Whether the worker kept a rule."""

    PASS = "pass"  # noqa: S105 - a verdict
    FAIL = "fail"
    #: Something before it failed, or the worker lacks the handler that it needs.
    NOT_TRIED = "not tried"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule asks for, and what was seen."""

    rule: str
    verdict: Verdict
    #: What was seen, in words; empty when there is nothing to add to the rule.
    seen: str = ""

    @property
    def expected(self) -> str:
        """What the rule asks for."""
        return RULES[self.rule]


class Findings:
    """Gathers what was found. The first failure of a rule stands."""

    def __init__(self) -> None:
        self._by_rule: dict[str, Finding] = {}

    def passed(self, rule: str) -> None:
        """Notes that the worker kept the rule this time."""
        self._by_rule.setdefault(rule, Finding(rule, Verdict.PASS))

    def failed(self, rule: str, seen: str) -> None:
        """Notes that the worker broke the rule.

        Args:
            rule: the name of the rule.
            seen: what it did instead, in words.
        """
        known = self._by_rule.get(rule)
        if known is None or known.verdict is not Verdict.FAIL:
            self._by_rule[rule] = Finding(rule, Verdict.FAIL, seen)

    def knows(self, rule: str) -> bool:
        """Whether anything was found about the rule."""
        return rule in self._by_rule

    def not_tried(self, rules: Iterable[str], why: str) -> None:
        """Notes why rules were not tried, if nothing was found about them."""
        for rule in rules:
            self._by_rule.setdefault(rule, Finding(rule, Verdict.NOT_TRIED, why))

    def all(self) -> list[Finding]:
        """Returns all findings in the order of RULES."""
        return [self._by_rule[rule] for rule in RULES if rule in self._by_rule]
