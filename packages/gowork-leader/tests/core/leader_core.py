"""A core without a world: commands go in by method, decisions are applied at once."""

from __future__ import annotations

from gowork.leader.core import commands as cmd
from gowork.leader.core.apply import apply
from gowork.leader.core.clock import trim
from gowork.leader.core.decide import decide
from gowork.leader.core.decision import Decision
from gowork.leader.core.effects import Effect, GrantTasks
from gowork.leader.core.model import (
    HandlerPolicy,
    LaneKey,
    Now,
    Outcome,
    Priority,
    RetryPolicy,
    Spec,
    Standing,
    Status,
)
from gowork.leader.core.state import Settings, State

WALL_MS = 1_800_000_000_000


def spec(
    id: str,
    *,
    handler: str = "work",
    priority: Priority = Priority.LOW,
    queue: str = "default",
    selector: tuple[tuple[str, str], ...] = (),
    body: bytes = b"",
    run_in_ms: int = 0,
    expires_in_ms: int = 0,
    retry: RetryPolicy | None = None,
    binary: bool = False,
) -> Spec:
    return Spec(
        id,
        LaneKey(queue, priority, handler, selector),
        body or id.encode(),
        WALL_MS + run_in_ms if run_in_ms else 0,
        WALL_MS + expires_in_ms if expires_in_ms else 0,
        retry,
        (),
        binary,
    )


class Core:
    """A state, a clock that stands still until it is moved, and what was decided last."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.state = State(settings or Settings(), fence=1 << 40, next_seq=1)
        self.wall_ms = WALL_MS
        self.mono = 1000.0
        self.effects: list[Effect] = []
        self._connections = 0

    @property
    def now(self) -> Now:
        return Now(self.wall_ms, self.mono)

    def do(self, command: cmd.Command) -> Decision:
        decision = decide(self.state, command, self.now)
        for change in decision.changes:
            apply(self.state, change)
        self.effects += decision.effects
        return decision

    def pass_time(self, seconds: float) -> None:
        self.mono += seconds
        self.wall_ms += int(seconds * 1000)
        self.do(cmd.Tick())
        trim(self.state, self.wall_ms)

    def submit(self, *specs: Spec) -> cmd.Submitted | cmd.Refused:
        answer = self.do(cmd.Submit(specs)).answer
        assert answer is not None
        return answer

    def connect(
        self,
        name: str = "w1",
        *,
        instance: str = "",
        slots: int = 4,
        credit: int | None = None,
        handlers: tuple[str, ...] = ("work",),
        default: str = "",
        labels: dict[str, str] | None = None,
        held: tuple[cmd.Held, ...] = (),
        retry: RetryPolicy | None = None,
    ) -> int:
        self._connections += 1
        connection = self._connections
        policies = tuple(HandlerPolicy(handler, handler == default, retry) for handler in handlers)
        self.do(
            cmd.OpenSession(
                connection, name, instance or f"{name}-1", slots, policies, labels or {}, "0.1.0", held, (), "peer"
            )
        )
        self.do(cmd.ReceiveFrame(connection, credit=slots if credit is None else credit))
        return connection

    def dispatch(self) -> dict[int, list[str]]:
        """{connection: ids granted}, in the order of the grants."""
        decision = self.do(cmd.Dispatch())
        return {
            effect.connection: [granted.id for _, _, _, granted in effect.grants]
            for effect in decision.effects
            if isinstance(effect, GrantTasks)
        }

    def report(self, connection: int, id: str, outcome: Outcome = Outcome.COMPLETED, **fields: object) -> Decision:
        fence = fields.pop("fence", self.standing(id).fence)
        report = cmd.Report(fence, id, outcome, **fields)  # type: ignore[arg-type]
        return self.do(cmd.ReceiveFrame(connection, [report]))

    def standing(self, id: str) -> Standing:
        return self.state.tasks[id].standing

    def status(self, id: str) -> Status:
        return self.standing(id).status

    def take_effects(self) -> list[Effect]:
        taken, self.effects = self.effects, []
        return taken
