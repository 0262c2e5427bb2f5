"""Under any commands, attempts that nobody else can tell of are told of once, by the context that is kept."""

from __future__ import annotations

from hypothesis import settings
from hypothesis.stateful import invariant
from leader_core import Core
from msgspec.structs import replace
from test_core_moves import Busy

from gowork.leader._core import commands as cmd
from gowork.leader._core.effects import GrantTasks, TraceSettling
from gowork.leader._core.model import Outcome, Spec
from gowork.leader._core.traces import previous_of
from gowork.leader._wire.specs import trace_bytes

SUBMIT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class TracedCore(Core):
    """All its tasks were submitted within a trace."""

    def submit(self, *specs: Spec) -> cmd.Submitted | cmd.Refused:
        return super().submit(*(replace(spec, trace=trace_bytes(SUBMIT, "")) for spec in specs))


class TracedCluster(Busy):
    def __init__(self) -> None:
        super().__init__()
        small = self.core.state.settings
        small.traced = True
        self.core = TracedCore(small)
        self.looked_at = 0
        #: {context: the fence of its attempt}
        self.told: dict[str, int] = {}

    @invariant()
    def every_loss_is_told_once_under_the_context_that_is_kept(self) -> None:
        for effect in self.core.effects[self.looked_at :]:
            if isinstance(effect, TraceSettling):
                assert effect.alone
                assert effect.trace not in self.told
                assert effect.links[0] == SUBMIT
                self.told[effect.trace] = effect.fence
        self.looked_at = len(self.core.effects)
        for _, _, standing in self.core.stored.values():
            for attempt in standing.attempts:
                assert bool(attempt.trace) is (attempt.outcome not in SILENT)
                assert not attempt.trace or self.told[attempt.trace] == attempt.fence

    @invariant()
    def a_grant_brings_the_context_of_the_attempt_before(self) -> None:
        for effect in self.core.effects[-1:]:
            if isinstance(effect, GrantTasks):
                for grant in effect.grants:
                    standing = self.core.standing(grant.spec.id)
                    if standing.fence == grant.fence:
                        assert grant.previous == previous_of(standing.attempts)


#: Nobody reports a context here, and these are not told of without one.
SILENT = {Outcome.COMPLETED, Outcome.INTERRUPTED, Outcome.SNOOZED}

TestTraces = TracedCluster.TestCase
TestTraces.settings = settings(max_examples=120, stateful_step_count=40, deadline=None, derandomize=True, database=None)
