"""The blocking client over real gRPC: deadlines, retries, batches in flight, waits and watches that break."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator

import grpc
import pytest

from gowork.base.channels import AddressError
from gowork.client import (
    AlreadyExists,
    CallError,
    Client,
    DeadlineExceeded,
    FieldViolation,
    InvalidArgument,
    LeaderUnreachable,
    NewTask,
    NotFound,
    TaskNotFinished,
    TaskStatus,
    _batches,
)
from gowork.proto import limits
from gowork.proto.status import Refusal, invalid

CANCELLED = Refusal(grpc.StatusCode.CANCELLED, "", "")
UNAVAILABLE = Refusal(grpc.StatusCode.UNAVAILABLE, "NOT_LEADING", "not leading now")
#: What a load balancer answers in the place of a leader that hangs.
TIMED_OUT = Refusal(grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE", "Received http2 header with status: 504")


@pytest.fixture
def client(scripted) -> Iterator[Client]:
    with Client(scripted.address) as client:
        yield client


@pytest.mark.parametrize("timeout", [1e12, math.inf])
def test_a_timeout_without_end_is_no_deadline_that_has_passed(scripted, timeout: float) -> None:
    with Client(scripted.address, timeout=timeout) as client:
        client.schedule("p")


class TestCalls:
    def test_every_call_has_a_deadline_of_30_seconds(self, client: Client, scripted) -> None:
        client.schedule("p", id="a")
        list(client.schedule_many(["p"]))
        client.wait(["a"])
        for method in ("ScheduleTask", "ScheduleTasks", "WaitTask"):
            # On the wire a deadline is rounded up.
            assert 25 < scripted.timeouts[method][0] < 31

    def test_a_call_is_made_again_while_the_leader_is_unavailable(self, client: Client, scripted) -> None:
        scripted.fail_next("ScheduleTask", UNAVAILABLE, times=2)
        client.schedule("p", id="a")
        requests = scripted.requests["ScheduleTask"]
        assert len(requests) == 3
        assert all(request == requests[0] for request in requests)

    def test_a_call_is_made_again_also_when_its_first_try_took_longer_than_the_patience(
        self, scripted, held: threading.Event
    ) -> None:
        def refuse_late() -> None:
            # As a load balancer does, which waits for a leader that is stopped, and then answers in its place.
            held.wait(0.3)
            raise UNAVAILABLE

        scripted.run_next("ScheduleTask", refuse_late)
        with Client(scripted.address, patience=0.1) as client:
            client.schedule("p", id="a")
        assert len(scripted.requests["ScheduleTask"]) == 2

    @pytest.mark.parametrize(("late", "tries"), [(TIMED_OUT, 3), (UNAVAILABLE, 2)])
    def test_patience_counts_anew_after_a_try_for_which_a_leader_hung(
        self, scripted, held: threading.Event, late: Refusal, tries: int
    ) -> None:
        def refuse_late() -> None:
            held.wait(0.3)
            raise late

        scripted.fail_next("ScheduleTask", UNAVAILABLE)
        scripted.run_next("ScheduleTask", refuse_late)
        with Client(scripted.address, patience=0.1) as client:
            if tries == 3:
                client.schedule("p", id="a")
            else:
                # A leader that follows has waited for one that leads. It would wait as long again.
                with pytest.raises(LeaderUnreachable, match="not leading now"):
                    client.schedule("p", id="a")
        assert len(scripted.requests["ScheduleTask"]) == tries

    def test_a_call_that_was_cancelled_though_nobody_asked_for_it_is_made_again(self, client: Client, scripted) -> None:
        scripted.fail_next("ScheduleTask", CANCELLED, times=2)
        client.schedule("p", id="a")
        assert len(scripted.requests["ScheduleTask"]) == 3

    def test_a_call_that_is_cancelled_each_time_says_why(self, scripted) -> None:
        scripted.fail_next("ScheduleTask", CANCELLED, times=1_000)
        with Client(scripted.address, timeout=2) as client, pytest.raises(LeaderUnreachable) as caught:
            client.schedule("p")
        assert "too many calls" in str(caught.value)
        assert caught.value.code is grpc.StatusCode.CANCELLED

    def test_the_deadline_holds_over_all_tries(self, scripted) -> None:
        scripted.fail_next("ScheduleTask", UNAVAILABLE, times=1_000)
        with Client(scripted.address, timeout=2) as client, pytest.raises(LeaderUnreachable, match="not leading now"):
            client.schedule("p")
        assert 2 <= len(scripted.requests["ScheduleTask"]) < 20

    def test_a_deadline_that_ends_a_further_try_tells_what_the_leader_had_said(
        self, scripted, held: threading.Event
    ) -> None:
        scripted.fail_next("ScheduleTask", UNAVAILABLE)
        scripted.run_next("ScheduleTask", held.wait)
        with Client(scripted.address, timeout=0.5) as client, pytest.raises(DeadlineExceeded) as caught:
            client.schedule("p")
        assert str(caught.value).endswith(
            f"is safe. Before that, the leader at {scripted.address} can't serve now: not leading now"
        )

    @pytest.mark.parametrize(
        ("refusal", "kind"),
        [
            (Refusal(grpc.StatusCode.ALREADY_EXISTS, "TASK_EXISTS", "taken", metadata={"id": "a"}), AlreadyExists),
            (Refusal(grpc.StatusCode.NOT_FOUND, "TASK_UNKNOWN", "unknown"), NotFound),
            (Refusal(grpc.StatusCode.INTERNAL, "BROKEN", "a defect"), CallError),
            (
                invalid([FieldViolation("task.id", "is empty"), FieldViolation("task.queue", "is long")]),
                InvalidArgument,
            ),
        ],
    )
    def test_a_refusal_is_raised_at_once_with_all_that_it_says(
        self, client: Client, scripted, refusal: Refusal, kind: type[CallError]
    ) -> None:
        scripted.fail_next("ScheduleTask", refusal)
        with pytest.raises(kind) as raised:
            client.schedule("p")
        assert len(scripted.requests["ScheduleTask"]) == 1
        assert str(raised.value) == refusal.message
        assert raised.value.reason == refusal.reason
        assert raised.value.violations == tuple(refusal.violations)
        assert raised.value.metadata == refusal.metadata

    def test_an_unreachable_leader_is_named_by_its_address(self, free_address: str) -> None:
        with Client(free_address, patience=0) as client, pytest.raises(LeaderUnreachable) as raised:
            client.schedule("p")
        assert raised.value.address == free_address
        assert free_address in str(raised.value)
        assert isinstance(raised.value, ConnectionError)

    def test_a_second_address_is_used_when_the_first_is_dead(self, scripted, free_address: str) -> None:
        with Client(f"{free_address},{scripted.address}") as client:
            client.schedule("p", id="a")
        assert "a" in scripted.tasks

    def test_a_call_ends_at_its_deadline(self, scripted, held) -> None:
        scripted.run_next("ScheduleTask", held.wait)
        with Client(scripted.address, timeout=0.2) as client, pytest.raises(DeadlineExceeded) as raised:
            client.schedule("p")
        assert isinstance(raised.value, TimeoutError)

    def test_the_environment_names_the_leader(self, scripted, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GOWORK_LEADER", scripted.address)
        with Client() as client:
            assert client.address == scripted.address

    def test_without_any_word_the_leader_is_on_this_machine(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("GOWORK_LEADER", raising=False)
        with Client() as client:
            assert client.address == "127.0.0.1:50052"

    def test_an_address_without_a_port_is_refused(self) -> None:
        with pytest.raises(AddressError):
            Client("localhost")

    @pytest.mark.parametrize("timeout", [0, -1, float("nan")])
    def test_a_timeout_that_is_not_positive_is_refused(self, timeout: float) -> None:
        with pytest.raises(ValueError, match="timeout"):
            Client("localhost:1", timeout=timeout)

    def test_threads_share_a_client(self, client: Client, scripted) -> None:
        def work() -> None:
            for _ in range(20):
                client.schedule("1").result()

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(scripted.tasks) == 80


class TestScheduleMany:
    def test_handles_come_in_order_for_all_tasks(self, client: Client, scripted) -> None:
        handles = list(client.schedule_many(({"n": n} for n in range(25_000)), handler="h"))
        assert [scripted.tasks[handle.id].payload for handle in handles] == [f'{{"n":{n}}}' for n in range(25_000)]
        assert len(scripted.requests["ScheduleTasks"]) >= 3

    def test_nothing_to_schedule_calls_nothing(self, client: Client, scripted) -> None:
        assert list(client.schedule_many([])) == []
        assert "ScheduleTasks" not in scripted.requests

    def test_the_source_is_read_no_further_than_a_few_batches(self, client: Client, scripted, held) -> None:
        # The first is answered only once as many as may be are on their way.
        for action in (held.wait, lambda: None, lambda: None, held.set):
            scripted.run_next("ScheduleTasks", action)
        taken = itertools.count()
        handles = client.schedule_many(str(next(taken)) for _ in itertools.count())
        assert next(handles).id in scripted.tasks
        sent = sum(len(request.tasks) for request in scripted.requests["ScheduleTasks"])
        # The first answer may come while the next batch is being filled.
        assert sent <= next(taken) <= sent + limits.BATCH_TASKS_MAX
        assert len(scripted.requests["ScheduleTasks"]) == 4
        handles.close()  # type: ignore[attr-defined]

    def test_a_batch_is_sent_again_as_it_was(self, client: Client, scripted) -> None:
        scripted.fail_next("ScheduleTasks", UNAVAILABLE)
        assert len(list(client.schedule_many(["a", "b"]))) == 2
        first, second = scripted.requests["ScheduleTasks"]
        assert first == second

    def test_a_refused_batch_names_the_place_among_all_tasks(
        self, client: Client, scripted, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_batches, "BATCH_AGE_S", math.inf)
        scripted.refused["b"] = invalid([FieldViolation("tasks[1].id", "is taken")])
        # Large enough that a batch holds three.
        big = "x" * (1 << 20)
        with pytest.raises(InvalidArgument, match=r"tasks\[4\]\.id: is taken") as raised:
            list(client.schedule_many([big, big, big, NewTask(big, id="a"), NewTask(big, id="b")]))
        assert raised.value.violations == (FieldViolation("tasks[4].id", "is taken"),)

    def test_it_can_be_left_early(self, client: Client) -> None:
        handles = client.schedule_many("p" for _ in itertools.count())
        assert next(handles).id
        handles.close()  # type: ignore[attr-defined]
        assert list(handles) == []


class TestWaits:
    def test_a_wait_goes_on_over_calls_that_break(self, client: Client, scripted) -> None:
        scripted.finishes_at_once = False
        handle = client.schedule("p")
        scripted.fail_next("WaitTask", UNAVAILABLE)
        scripted.run_next("WaitTask", lambda: scripted.finish(handle.id, result="7"))
        assert handle.result() == 7
        assert len(scripted.requests["WaitTask"]) == 2

    def test_a_wait_is_longer_than_the_deadline_of_its_calls(self, scripted) -> None:
        scripted.finishes_at_once = False
        with Client(scripted.address, timeout=0.3) as client:
            handle = client.schedule("p")
            scripted.run_next("WaitTask", lambda: None)
            scripted.run_next("WaitTask", lambda: scripted.finish(handle.id))
            assert handle.wait().status is TaskStatus.COMPLETED
        assert len(scripted.requests["WaitTask"]) == 2

    def test_a_wait_gives_up_at_the_callers_timeout_and_names_what_is_out(self, client: Client, scripted) -> None:
        scripted.finishes_at_once = False
        handles = [client.schedule("p", id=f"t{n}") for n in range(5)]
        scripted.finish("t1")
        with pytest.raises(
            TaskNotFinished, match=r"4 tasks have not finished in time: t0, t2, t3, …; Client.explain"
        ) as raised:
            client.wait(handles, timeout=0.2)
        assert raised.value.ids == ("t0", "t2", "t3", "t4")
        assert isinstance(raised.value, TimeoutError)
        assert handles[1].done

    def test_only_what_is_out_is_asked_for_again(self, client: Client, scripted) -> None:
        list(client.schedule_many(NewTask("p", id=f"t{n}") for n in range(2_500)))
        scripted.fail_next("WaitTasks.between", UNAVAILABLE)
        assert len(client.wait(f"t{n}" for n in range(2_500))) == 2_500
        first, second = scripted.requests["WaitTasks"]
        assert (len(first.ids), len(second.ids)) == (2_500, 1_500)

    def test_wait_answers_in_the_given_order_and_for_each_handle(self, client: Client) -> None:
        client.schedule("1", id="a")
        client.schedule("2", id="b")
        assert [task.result for task in client.wait(["b", "a", "b"])] == ["2", "1", "2"]

    def test_waiting_for_nothing_calls_nothing(self, client: Client, scripted) -> None:
        assert client.wait([]) == []
        assert not scripted.requests

    def test_as_completed_yields_in_the_order_of_finishing(self, client: Client, scripted) -> None:
        scripted.finishes_at_once = False
        handles = list(client.schedule_many(["p"] * 3))
        done = client.as_completed(handles)
        for handle in reversed(handles):
            scripted.finish(handle.id)
            assert next(done) is handle
        assert list(done) == []

    def test_as_completed_takes_schedule_many_itself(self, client: Client) -> None:
        done = list(client.as_completed(client.schedule_many(str(n) for n in range(30_000))))
        assert sorted(handle.result() for handle in done) == list(range(30_000))

    def test_as_completed_can_be_left_early_and_leaves_no_thread(self, client: Client, scripted) -> None:
        handles = list(client.schedule_many("1" for _ in range(30_000)))
        scripted.finishes_at_once = False
        handles.append(client.schedule("1"))
        done = client.as_completed(handles)
        next(done)
        done.close()  # type: ignore[attr-defined]
        assert not [thread for thread in threading.enumerate() if thread.name == "gowork-wait"]

    def test_an_error_of_one_of_several_calls_is_raised(self, client: Client, scripted) -> None:
        handles = list(client.schedule_many("1" for _ in range(10_001)))
        scripted.fail_next("WaitTasks", Refusal(grpc.StatusCode.NOT_FOUND, "TASK_UNKNOWN", "unknown"))
        with pytest.raises(NotFound):
            list(client.as_completed(handles))
        assert not [thread for thread in threading.enumerate() if thread.name == "gowork-wait"]

    def test_a_wait_gives_up_when_the_leader_stays_away(self, scripted, free_address: str) -> None:
        with Client(free_address, patience=0) as client, pytest.raises(LeaderUnreachable):
            client.wait(["a"])


class TestWatch:
    def test_a_watch_that_was_made_sees_what_comes_after(self, client: Client) -> None:
        client.schedule("p", id="before")
        with client.watch() as changes:
            client.schedule("p", id="after")
            assert next(changes).id == "after"

    def test_a_watch_goes_on_from_its_token(self, client: Client, scripted) -> None:
        with client.watch() as changes:
            scripted.fail_next("WatchTasks.between", UNAVAILABLE)
            client.schedule("p", id="a")
            assert next(changes).id == "a"
            client.schedule("p", id="b")
            assert next(changes).id == "b"
            assert changes.token == "2"
        assert [request.token for request in scripted.requests["WatchTasks"]] == ["", "1"]

    def test_a_watch_that_read_too_slowly_goes_on(self, client: Client, scripted) -> None:
        with client.watch() as changes:
            slow = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "WATCHER_SLOW", "too slow")
            scripted.fail_next("WatchTasks.between", slow)
            client.schedule("p", id="a")
            client.schedule("p", id="b")
            assert [next(changes).id, next(changes).id] == ["a", "b"]

    def test_closing_from_another_thread_ends_the_iteration(self, client: Client) -> None:
        changes = client.watch()
        closer = threading.Thread(target=changes.close)
        closer.start()
        assert list(changes) == []
        closer.join()

    def test_a_watch_that_is_refused_raises(self, client: Client, scripted) -> None:
        scripted.fail_next("WatchTasks", invalid([FieldViolation("filter", "does not parse")]))
        with pytest.raises(InvalidArgument, match="does not parse"):
            client.watch("nonsense")
