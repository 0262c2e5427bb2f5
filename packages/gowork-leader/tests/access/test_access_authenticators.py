"""Authenticators: whom they name, whom they are not asked about, and what happens when they fail."""

from __future__ import annotations

import asyncio
import logging
import threading
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import grpc
import pytest
from access_callers import access_file, code_of, entry, token_of
from access_callers import metadata as keys
from leader_serving import PATIENCE, ServedLeader, serving

from gowork.base import extensions
from gowork.base.bearer import showing
from gowork.base.identities import Role
from gowork.base.tls_files import TlsFiles
from gowork.leader import Access, Authenticator, Caller, Credentials
from gowork.leader._access import authenticators
from gowork.leader._access.authenticators import AuthenticatorError, load_authenticator
from gowork.leader._app.access_options import access_options
from gowork.proto.scheduler.v1 import scheduler_pb2 as pb
from gowork.proto.status import Refusal

OK = grpc.StatusCode.OK
DENIED = grpc.StatusCode.PERMISSION_DENIED
UNKNOWN = grpc.StatusCode.UNAUTHENTICATED
STATS = "scheduler.v1.SchedulerService/Stats"
WATCH = "scheduler.v1.SchedulerService/WatchTasks"
PAUSE = "scheduler.v1.SchedulerService/PauseQueue"
SHOWN = Credentials(STATS, "ipv4:127.0.0.1:1", b"", (("authorization", "Bearer abc"),))


def bearer(token: str) -> tuple[tuple[str, str], ...]:
    return keys(authorization=f"Bearer {token}")


def by_token(credentials: Credentials) -> Caller | None:
    """Knows tokens as "NAME:ROLE"."""
    name, colon, role = credentials.token.partition(":")
    return Caller(name, (role,)) if colon else None


async def by_token_async(credentials: Credentials) -> Caller | None:
    await asyncio.sleep(0)
    return by_token(credentials)


@pytest.mark.parametrize("authenticate", [by_token, by_token_async])
async def test_whom_it_names_may_do_what_their_roles_and_the_file_allow(tmp_path: Path, authenticate: Any) -> None:
    parts = (
        'revoked = ["mallory"]',
        entry("web", "client"),
        entry("bound", token=False, queues=["mail"]),
    )
    access = Access(access_file(tmp_path, *parts), Authenticator(authenticate))
    async with serving(tmp_path, access=access) as leader:
        assert (await code_of(leader, STATS, *bearer("ada:client")))[0] is OK
        assert (await code_of(leader, WATCH, *bearer("ada:client")))[0] is OK
        assert (await code_of(leader, PAUSE, *bearer("ada:client")))[0] is DENIED
        # What the file and certificates say is not asked, and what nobody knows is denied as ever.
        assert (await code_of(leader, STATS, *bearer(token_of("web"))))[0] is OK
        assert (await code_of(leader, STATS, *bearer("nobody")))[0] is UNKNOWN
        assert (await code_of(leader, STATS))[0] is UNKNOWN
        code, message = await code_of(leader, STATS, *bearer("mallory:admin"))
        assert (code, "revoked" in message) == (UNKNOWN, True)
        code, message = await code_of(leader, "cluster.v1.LeaderService/Drain", *bearer("bound:admin"))
        assert (code, "concerns all queues" in message) == (DENIED, True)
        # It can make nobody a leader, who speaks for others, and nobody whom it names may hand calls on.
        assert (await code_of(leader, "cluster.v1.LeaderService/CopyStore", *bearer("eve:leader")))[0] is DENIED
        for pretended in (keys(gowork_caller="admin/root"), keys(gowork_forwarded="x")):
            code, message = await code_of(leader, STATS, *bearer("ada:client"), *pretended)
            assert (code, "hand on" in message) == (DENIED, True)


async def test_it_is_shown_what_the_caller_shows_and_nothing_that_only_leaders_are_believed(tmp_path: Path) -> None:
    seen: list[Credentials] = []
    threads: list[str] = []

    def noting(credentials: Credentials) -> None:
        seen.append(credentials)
        threads.append(threading.current_thread().name)

    async with serving(tmp_path, access=Access(None, Authenticator(noting))) as leader:
        given = (*bearer("t0ken"), *keys(x_tenant="a", x_forwarded_client_cert="Cert=x", gowork_caller="admin/root"))
        await code_of(leader, STATS, *given)
    assert threads == ["gowork-authenticator"]
    (credentials,) = seen
    assert (credentials.call, credentials.token, credentials.certificate) == (STATS, "t0ken", b"")
    shown = dict(credentials.metadata)
    assert shown["x-tenant"] == "a"
    assert not {"x-forwarded-client-cert", "gowork-caller", "gowork-forwarded"} & set(shown)


def raises(credentials: Credentials) -> Caller:
    raise LookupError("the secret of the database")


def exits(credentials: Credentials) -> Caller:
    raise SystemExit(3)


async def hangs(credentials: Credentials) -> Caller:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize(
    ("authenticate", "words"),
    [
        (raises, "failed: LookupError"),
        (exits, "failed: RuntimeError"),
        (hangs, "took longer than"),
        (lambda credentials: "ada", "failed: TypeError"),
        (lambda credentials: Caller("ada", "client"), "failed: TypeError"),  # type: ignore[arg-type]
        (lambda credentials: Caller("ada", ("clown",)), "failed: ValueError"),
        (lambda credentials: Caller("", ("client",)), "failed: ValueError"),
        (lambda credentials: Caller("a" * 257, ("client",)), "failed: ValueError"),
    ],
    ids=["raises", "exits", "hangs", "a text", "one role", "a role that is none", "no name", "a long name"],
)
async def test_one_that_fails_denies_and_the_record_says_so(
    tmp_path: Path, authenticate: Any, words: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(authenticators, "ANSWER_SECONDS_MAX", 0.05)
    access = Access(None, Authenticator(authenticate, "ldap (acme 1.0)"))
    async with serving(tmp_path, access=access) as leader:
        with caplog.at_level(logging.INFO, "gowork.leader.audit"):
            code, message = await code_of(leader, STATS, *bearer("ada:admin"))
    assert code is UNKNOWN
    assert words in message
    assert "secret" not in message
    (record,) = [record for record in caplog.records if record.name == "gowork.leader.audit"]
    assert (record.getMessage(), vars(record)["call"]) == ("denied", STATS)
    assert vars(record)["reason"].startswith("the authenticator ldap (acme 1.0) ")
    assert access.audit.refused["AUTHENTICATOR_FAILED"] == 1


async def test_a_plain_one_that_hangs_denies_in_time_and_no_more_are_begun_than_may_hang(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(authenticators, "ANSWER_SECONDS_MAX", 0.01)
    monkeypatch.setattr(authenticators, "ASKING_MAX", 2)
    go = threading.Event()
    begun: list[object] = []

    def stuck(credentials: Credentials) -> Caller:
        begun.append(credentials)
        go.wait(60)
        return Caller("ada", ("client",))

    authenticator = Authenticator(stuck)
    for _ in range(4):
        with pytest.raises(Refusal, match="took longer than 0.01 s"):
            await authenticator.ask(SHOWN)
    assert len(begun) == 2
    go.set()
    # Their turns are over, so others have them.
    monkeypatch.setattr(authenticators, "ANSWER_SECONDS_MAX", 60)
    assert await authenticator.ask(SHOWN) == ("ada", frozenset({Role.CLIENT}))


async def test_the_thread_of_an_async_one_ends_with_its_leader(tmp_path: Path) -> None:
    begun: list[threading.Thread] = []
    waits = threading.Event()

    async def asked(credentials: Credentials) -> Caller | None:
        begun.append(threading.current_thread())
        if credentials.token == "slow":
            waits.set()
            await asyncio.Event().wait()
        return None

    access = Access(None, Authenticator(asked))
    for _ in range(2):
        # The next leader may ask it, too.
        async with serving(tmp_path, access=access) as leader:
            assert (await code_of(leader, STATS, *bearer("nobody")))[0] is UNKNOWN
            slow = asyncio.create_task(code_of(leader, STATS, *bearer("slow")))
            assert await asyncio.to_thread(waits.wait, PATIENCE)
            waits.clear()
            slow.cancel()
        await asyncio.to_thread(begun[-1].join, PATIENCE)
        assert not begun[-1].is_alive()


async def test_questions_beyond_the_bound_wait_for_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authenticators, "ANSWER_SECONDS_MAX", 60)
    monkeypatch.setattr(authenticators, "ASKING_MAX", 2)
    authenticator = Authenticator(lambda credentials: Caller("ada", ("client",)))
    assert len(await asyncio.gather(*(authenticator.ask(SHOWN) for _ in range(20)))) == 20


async def test_the_submissions_of_a_stream_are_asked_about_once(tmp_path: Path) -> None:
    asked: list[str] = []

    def counting(credentials: Credentials) -> Caller | None:
        asked.append(credentials.call)
        return by_token(credentials)

    async with serving(tmp_path, access=Access(None, Authenticator(counting))) as leader:
        known = ServedLeader(leader.addresses, showing(leader.channel, lambda: "ada:client"), leader.stopped)
        stream = known.scheduler.SubmitTasks(timeout=PATIENCE)
        submissions = [
            pb.Submission(number=number, call=pb.ScheduleTaskRequest(task=pb.Task(id=f"t{number}", payload="x")))
            for number in range(3)
        ]
        await stream.write(pb.SubmitTasksRequest(submissions=submissions))
        refusals: list[bytes] = []
        while len(refusals) < 3:
            refusals += [answer.refusal for answer in (await stream.read()).answers]
        stream.cancel()
    assert refusals == [b""] * 3
    assert asked == ["scheduler.v1.SchedulerService/SubmitTasks"]


async def test_a_stream_ends_when_the_file_revokes_whom_it_has_named(tmp_path: Path) -> None:
    asked: list[object] = []

    def counting(credentials: Credentials) -> Caller | None:
        asked.append(credentials)
        return by_token(credentials)

    path = access_file(tmp_path, entry("web", "client"))
    access = Access(path, Authenticator(counting))
    context: Any = _Context(bearer("ada:client"))
    with pytest.raises(Refusal) as unknown:
        access.admit(WATCH, context)
    assert access.has_to_ask(unknown.value)
    caller = await access.ask(WATCH, context, unknown.value)
    assert (caller.name, list(caller.roles)) == ("ada", [Role.CLIENT])
    assert access.admit_again(WATCH, context, caller).has_rights_of(caller)
    (tmp_path / "new.toml").write_text('revoked = ["ada"]\n')
    (tmp_path / "new.toml").rename(path)
    assert access.refresh()
    with pytest.raises(Refusal, match="'ada' is revoked"):
        access.admit_again(WATCH, context, caller)
    assert len(asked) == 1


class _Context:
    """A call over plain text."""

    def __init__(self, given: tuple[tuple[str, str], ...]) -> None:
        self._given = given

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._given

    def auth_context(self) -> dict[str, list[bytes]]:
        return {}

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"


def test_revoked_certificates_and_tokens_are_not_asked_about() -> None:
    access = Access(None, Authenticator(by_token))
    for reason in ("REVOKED", "CERTIFICATE_UNUSABLE", "CALLER_UNUSABLE", "ROLE_MISSING"):
        assert not access.has_to_ask(Refusal(UNKNOWN, reason, ""))
    assert not Access().has_to_ask(Refusal(UNKNOWN, "NO_IDENTITY", ""))


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(*points: tuple[str, str]) -> None:
        found = [metadata.EntryPoint(name, value, "gowork.authenticators") for name, value in points]
        monkeypatch.setattr(extensions.metadata, "entry_points", lambda group: found)

    return install


def test_one_is_found_by_its_name(install: Any) -> None:
    install(("json", "json:dumps"), ("no", "json:absent"), ("two", "json:dumps"), ("two", "json:loads"))
    assert load_authenticator("json").title == "json"
    for name, words in (
        ("ldap", "there is no authenticator 'ldap' here; installed are: json, no, two"),
        ("no", "can't be loaded: AttributeError"),
        ("two", "uninstall all but one"),
    ):
        with pytest.raises(AuthenticatorError, match=words):
            load_authenticator(name)


def test_a_leader_does_not_start_without_the_one_that_it_is_given(install: Any) -> None:
    install(("json", "json:dumps"))

    def options(name: str, listened: str = "127.0.0.1:0") -> Any:
        return access_options(
            TlsFiles(), None, name, None, listened=(listened,), has_proxy=False, is_alone=True, insecure=False
        )

    assert options("json").access.authenticator == "json"
    with pytest.raises(click.UsageError, match="--authenticator: there is no authenticator 'ldap'"):
        options("ldap")
    with pytest.raises(click.UsageError, match="tokens can be read on their way"):
        options("json", "0.0.0.0:0")
