"""The rules of `gowork doctor`: what was seen of a cluster and of this machine, and what to do about it.

It asks nobody and reads no clock. What is supported, and the limits of what is well, are here alone; the page on what
works with what (docs/support.md) says the same.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from gowork.client import LeaderInfo, Liveness, Member, MemberKind

#: The versions of Python that are tested: (the oldest, the newest).
PYTHONS = ((3, 11), (3, 14))
#: How far a clock may be from the leader's, in seconds. Times that tasks name are compared with the leader's.
CLOCK_SECONDS_MAX = 1.0
#: How long ago a leader may have registered, in seconds. It does so every ten.
REGISTERED_SECONDS_MAX = 30.0
#: The fewest files that a process may have open.
OPEN_FILES_MIN = 4_096
#: How long one write may take to be on disk, half of the time, in seconds. A leader commits that often in a second.
SYNC_SECONDS_MAX = 0.01
#: The least room on the disk of the data directory, in bytes.
FREE_BYTES_MIN = 1 << 30
#: For how long a certificate must be valid still, in days. Files that are renewed later are renewed too late.
VALID_DAYS_MIN = 14
#: The newest format of a store of SQLite that this version knows.
STORE_FORMAT_MAX = 5
#: Kinds of file systems that lie about what is on disk, lack locks, or are gone with the machine's power.
UNFIT_FILE_SYSTEMS = frozenset({"9p", "cifs", "nfs", "nfs4", "ramfs", "smb3", "tmpfs"})
#: How the leader sees workers that have no session with it.
_NOT_CONNECTED = frozenset({Liveness.LOST, Liveness.LEFT})


class State(StrEnum):
    """What came of a check."""

    OK = "OK"
    FINDING = "FINDING"
    #: It could not be made; the words say why.
    SKIPPED = "SKIPPED"


@dataclass(frozen=True, slots=True)
class Checked:
    """One check of one subject."""

    check: str
    #: What was looked at, as in a leader's or a worker's name.
    subject: str
    state: State
    #: What was seen.
    says: str
    #: What to do; empty where nothing is to be done.
    advice: str = ""


def ok(check: str, subject: str, says: str) -> Checked:
    """Returns a check without a finding."""
    return Checked(check, subject, State.OK, says)


def finding(check: str, subject: str, says: str, advice: str) -> Checked:
    """Returns a finding, with what to do."""
    return Checked(check, subject, State.FINDING, says, advice)


def skipped(check: str, subject: str, says: str) -> Checked:
    """Returns a check that could not be made."""
    return Checked(check, subject, State.SKIPPED, says)


def minor_of(version: str) -> tuple[int, int] | None:
    """Returns the first two numbers of a version; None where it has none."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else None


def fits(one: str, other: str) -> bool | None:
    """Returns whether two versions may be in one cluster; None where one is no version.

    Those that differ by one in the second number are tested together.
    """
    first, second = minor_of(one), minor_of(other)
    if first is None or second is None:
        return None
    return first[0] == second[0] and abs(first[1] - second[1]) <= 1


def versions(own: str, leader: str, leaders: Iterable[LeaderInfo], members: Iterable[Member]) -> Iterator[Checked]:
    """Checks that all parts of a cluster have versions that work together.

    Args:
        own: the version of this command.
        leader: the version of the leader that answered.
        leaders: all leaders.
        members: all members. Those that are not connected are left out. Callback workers have no version.
    """
    parts = [("this command", own, True)]
    parts += [(f"leader {each.name}", each.version, True) for each in leaders if each.version and not each.leads]
    parts += [
        # A worker in another language names its own version, and no plugins. gowork-worker names those of its handlers.
        (f"worker {each.id}", each.version, bool(each.plugins))
        for each in members
        if each.version and each.liveness not in _NOT_CONNECTED
    ]
    yield ok("version", "the leader", leader)
    for subject, version, is_ours in parts:
        fit = fits(version, leader)
        if fit is None:
            yield skipped("version", subject, f"{version!r} and {leader!r} can't be compared")
        elif fit:
            yield ok("version", subject, version)
        elif not is_ours:
            says = f"{version}, which need not be a version of gowork: the worker names no plugins"
            yield skipped("version", subject, says)
        else:
            advice = "install versions whose second numbers differ by one at most; upgrade the leader before the others"
            yield finding("version", subject, f"{version}, and the leader has {leader}", advice)


def packages(installed: Mapping[str, str]) -> Checked:
    """Checks that the packages of this environment go together: {package: its version}."""
    minors = {minor_of(version) for version in installed.values()}
    says = ", ".join(f"{name} {version}" for name, version in sorted(installed.items()))
    if len(minors) <= 1:
        return ok("packages", "this environment", says)
    return finding("packages", "this environment", says, "install packages of gowork with the same first two numbers")


def python(version: Sequence[int], platform: str) -> Iterator[Checked]:
    """Checks the version of Python, and the operating system by the name that Python has for it."""
    words = ".".join(map(str, version[:3]))
    if PYTHONS[0] <= tuple(version[:2]) <= PYTHONS[1]:
        yield ok("python", "this environment", words)
    else:
        oldest, newest = (".".join(map(str, each)) for each in PYTHONS)
        yield finding("python", "this environment", words, f"take Python {oldest} to {newest}, which are tested")
    if platform == "linux":
        yield ok("system", "this machine", platform)
    else:
        yield finding("system", "this machine", platform, "run leaders and workers on Linux; nothing else is tested")


def own_clock(leader: datetime | None, asked: float, answered: float) -> Checked:
    """Checks the clock of this machine against the leader's.

    Args:
        leader: the leader's time, at some moment of the call; None where it is too old to say.
        asked: when the call was made, and `answered`, when it was answered: in seconds since the Unix epoch, here.
        answered: see there.
    """
    subject = "this machine"
    if leader is None:
        return skipped("clock", subject, "the leader does not tell its time; it is older than 0.2")
    # Between the two moments it is unknown when the leader looked at its clock.
    now = leader.timestamp()
    off = now - answered if now > answered else now - asked if now < asked else 0.0
    says = f"{abs(off):.1f} s {'behind' if off > 0 else 'ahead of'} the leader" if off else "as the leader's"
    if abs(off) <= CLOCK_SECONDS_MAX:
        return ok("clock", subject, says)
    return finding("clock", subject, says, "have NTP set the clocks of all machines, as with chrony")


def leader_clocks(leaders: Iterable[LeaderInfo], now: datetime | None) -> Iterator[Checked]:
    """Checks the clocks of leaders that do not lead, by when they registered last, and that they still do."""
    for leader in leaders:
        if leader.leads or leader.seen_at is None or now is None:
            continue
        subject, ago = f"leader {leader.name}", (now - leader.seen_at).total_seconds()
        if ago < -CLOCK_SECONDS_MAX:
            advice = "have NTP set the clocks of all machines, as with chrony"
            yield finding("clock", subject, f"{-ago:.1f} s ahead of the one that leads", advice)
        elif ago > REGISTERED_SECONDS_MAX:
            advice = "look whether it runs and reaches the log; `gowork leaders remove` forgets one that is gone"
            yield finding("clock", subject, f"registered {ago:.0f} s ago, or its clock is behind", advice)
        else:
            yield ok("clock", subject, "as the one that leads, as far as can be seen")


def workers(members: Iterable[Member]) -> Iterator[Checked]:
    """Checks that workers are connected, and that their plugins could be loaded."""
    for member in members:
        subject = f"worker {member.id}"
        if member.liveness is Liveness.LOST:
            yield finding(
                "worker", subject, "lost", "look at its host and its log; `gowork members` shows when it was seen"
            )
        elif member.liveness is Liveness.BLOCKED:
            yield finding(
                "worker", subject, "blocked", "a handler blocks its runner; see GoworkWorkersBlocked in the runbook"
            )
        elif member.liveness is not Liveness.LEFT:
            kind = "callback worker" if member.kind is MemberKind.CALLBACK else f"{member.slots} slots"
            yield ok("worker", subject, f"{str(member.liveness).lower()}, {kind}")
        for error in member.plugin_errors:
            yield finding("plugin", subject, error, "mend or uninstall the plugin, and start the worker again")


def open_files(most: int | None) -> Checked:
    """Checks how many files a process may have open here, at most; None: without a limit."""
    if most is None or most >= OPEN_FILES_MIN:
        return ok("open files", "this machine", "no limit" if most is None else f"{most:,}")
    advice = f"raise the hard limit to {OPEN_FILES_MIN:,} or more, as with LimitNOFILE= of systemd"
    return finding("open files", "this machine", f"{most:,} at most", advice)


def disk(subject: str, *, median_seconds: float, free_bytes: int, file_system: str) -> Iterator[Checked]:
    """Checks a directory for a store.

    Args:
        subject: its path.
        median_seconds: how long a small write took to be on disk.
        free_bytes: the room on its disk.
        file_system: the kernel's name of its kind; empty where it is unknown.
    """
    says = f"{median_seconds * 1000:.2f} ms for a write to be on disk"
    if median_seconds <= SYNC_SECONDS_MAX:
        yield ok("disk speed", subject, says)
    else:
        advice = "each commit waits for it; move the store to a local SSD, and look what else writes there"
        yield finding("disk speed", subject, says, advice)
    says = f"{free_bytes / (1 << 30):.1f} GiB free"
    if free_bytes >= FREE_BYTES_MIN:
        yield ok("disk room", subject, says)
    else:
        yield finding("disk room", subject, says, "make room, or keep finished tasks for less long: --retain-days")
    if file_system in UNFIT_FILE_SYSTEMS:
        yield finding("file system", subject, file_system, "move the store to a local disk")
    elif file_system:
        yield ok("file system", subject, file_system)


def store_format(subject: str, version: int) -> Checked:
    """Checks the format of a store of SQLite."""
    if 0 < version <= STORE_FORMAT_MAX:
        return ok("store format", subject, str(version))
    if version > STORE_FORMAT_MAX:
        return finding(
            "store format", subject, f"{version}, newer than {STORE_FORMAT_MAX}", "install a newer version here"
        )
    return finding("store format", subject, "this is no store of gowork", "name the directory that has gowork.db")


def validity(subject: str, starts: datetime, ends: datetime, now: datetime) -> Checked:
    """Checks for how long a certificate is valid."""
    days = (ends - now).total_seconds() / 86_400
    says = f"valid until {ends:%Y-%m-%d %H:%M} UTC"
    if now < starts:
        return finding("certificate", subject, f"valid from {starts:%Y-%m-%d %H:%M} UTC on", "set the clock, or wait")
    if days < 0:
        return finding(
            "certificate", subject, f"expired at {ends:%Y-%m-%d %H:%M} UTC", "put a new one into its file now"
        )
    if days < VALID_DAYS_MIN:
        return finding("certificate", subject, says, f"renew it: it has less than {VALID_DAYS_MIN} days left")
    return ok("certificate", subject, says)
