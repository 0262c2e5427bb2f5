"""Decides by the seed what goes wrong with several leaders, their etcd, and the network between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim_node import SimNode

from gowork.leader.log._etcd import etcd_pb2 as pb

if TYPE_CHECKING:
    from sim_several import SeveralWorld


#: For how long a leader is kept away from the log, so that it lags behind, and how often that is looked at, in seconds.
_BEHIND_SECONDS = 12.0
_LOOK_SECONDS = 0.5
#: What may go wrong with a leader, the more frequent faults more than once.
_KINDS = (
    "dies",
    "loses power",
    "is heard late",
    "loses its disk",
    "stops",
    "stops",
    "is cut off from etcd",
    "is cut off from etcd",
    "is isolated",
    "is slow",
    "resigns",
    "etcd has a new leader",
    "is answered late",
    "is lied to",
    "dies amid parts",
    "lags",
    "etcd is full",
)
#: Which of them show a bug seldom, so that they must occur often.
_SUBTLE = ("is heard late", "is answered late", "is lied to", "dies amid parts", "lags")


async def break_leaders(world: SeveralWorld, until: float) -> None:
    """Causes one fault after the other until the time `until`, and then heals all leaders.

    In each world one of the subtle faults is more frequent than the others.
    """
    frequent = world.rng.choice(_SUBTLE)
    while world.loop.now < until:
        await world.loop.pass_time(world.rng.expovariate(0.7))
        kind = frequent if world.rng.random() < 0.7 else world.rng.choice(_KINDS)
        await world.loop.pass_time(_break_something(world, kind))
    _fill(world, False)
    for node in world.nodes:
        node.calm_down()


def _break_something(world: SeveralWorld, kind: str) -> float:
    """Causes a fault. Returns for how long no other is caused, in seconds, because some faults take a while to act."""
    quiet = 0.0
    rng, trace = world.rng, world.trace
    leading = [node for node in world.nodes if node.process is not None and node.process.seat is not None]
    node = rng.choice(leading if leading and rng.random() < 0.7 else world.nodes)
    match kind:
        case "dies":
            trace.fault("a leader's process is killed", node.name)
            node.kill(power_cut=False)
        case "loses power":
            trace.fault("a leader's machine loses its power", node.name)
            node.kill(power_cut=True)
        case "is heard late":
            node = rng.choice(leading or world.nodes)
            node.holds_back, node.is_dying = True, rng.random() < 0.5
            quiet = 4.0 if node.is_dying else 2.5
        case "loses its disk":
            # All others must have a store, or the log might be pruned of what nobody has.
            others = [each for each in world.nodes if each is not node]
            if not world.has_lost_a_disk and all(world.applied(each.name) is not None for each in others):
                world.has_lost_a_disk = True
                trace.fault("a leader's disk is lost", node.name)
                node.kill(power_cut=True, loses_disk=True)
        case "stops":
            seconds = rng.choice([0.5, 2.0, 3.5, 6.0, 12.0])
            trace.fault("a leader is stopped for a while", node.name, f"for {seconds:g} s")
            node.pause(seconds)
        case "is cut off from etcd":
            seconds, is_deceived = rng.choice([1.0, 4.0, 7.0, 12.0]), rng.random() < 0.6
            trace.fault("a leader is cut off from etcd", node.name, f"for {seconds:g} s")
            if is_deceived:
                trace.fault("the keepalives of a leader that is cut off are answered", node.name)
            node.cut_from_etcd(seconds, is_deceived=is_deceived)
        case "is isolated":
            seconds = rng.choice([2.0, 6.0, 12.0])
            trace.fault("a leader is cut off from all but etcd", node.name, f"for {seconds:g} s")
            node.isolate(seconds)
        case "is slow":
            trace.fault("a leader reaches etcd slowly", node.name)
            node.is_slow = True
            world.loop.later(rng.uniform(1.0, 5.0), setattr, node, "is_slow", False)
        case "resigns":
            if node.process is not None and rng.random() < 0.5:
                trace.fault("a leader steps down", node.name)
                node.process.step_down()
            else:
                trace.fault("a leader is asked to stop", node.name)
                node.ask_to_stop()
        case "etcd has a new leader":
            trace.fault("etcd has a new leader")
            world.etcd.extend_leases()
            for each in world.nodes:
                if each.process is not None:
                    each.process.link.break_streams()
        case "is answered late":
            if leading:
                node, quiet = rng.choice(leading), 6.0
                trace.fault("etcd answers a leader late, and then loses its keepalives", node.name)
                node.drag(quiet)
        case "is lied to":
            node, seconds = rng.choice(leading or world.nodes), rng.choice([4.0, 6.0, 9.0])
            trace.fault("the keepalives of a leader are answered and not done", node.name, f"for {seconds:g} s")
            node.lie(seconds)
            quiet = rng.choice((0.0, 4.0, 4.0))
        case "dies amid parts":
            node.parts_left = rng.choice((1, 1, 2))
        case "lags":
            # The log waits for the second of two stores.
            following = [each for each in world.nodes if each not in leading and world.applied(each.name)]
            if following and len(world.nodes) > 2:
                _leave_behind(world, rng.choice(following), world.loop.now + _BEHIND_SECONDS)
                quiet = rng.choice((0.0, _BEHIND_SECONDS, _BEHIND_SECONDS))
        case _:
            if rng.random() < 0.4:
                trace.fault("etcd is full for a while")
                _fill(world, True)
                world.loop.later(rng.uniform(0.5, 4.0), _fill, world, False)
    return quiet


def _leave_behind(world: SeveralWorld, node: SimNode, until: float) -> None:
    """Cuts a leader off until the log lacks what it needs. Then all others die, and it comes back."""
    applied = world.applied(node.name)
    if applied is None or world.calm or world.loop.now >= until:
        return
    if not world.etcd.has_entries() or world.etcd.first_entry() <= applied + 1:
        node.cut_from_etcd(2 * _LOOK_SECONDS, is_deceived=False)
        world.loop.later(_LOOK_SECONDS, _leave_behind, world, node, until)
        return
    world.trace.fault("a leader comes back that lags behind the log, and nobody leads", node.name)
    node.loses_pages = True
    world.loop.later(_BEHIND_SECONDS / 2, setattr, node, "loses_pages", False)
    for each in world.nodes:
        if each is not node:
            each.kill(power_cut=False)
            each.cut_from_etcd(_BEHIND_SECONDS / 2, is_deceived=False)


def _fill(world: SeveralWorld, is_full: bool) -> None:
    action = pb.AlarmRequest.ACTIVATE if is_full else pb.AlarmRequest.DEACTIVATE
    world.etcd.do(pb.AlarmRequest(action=action, alarm=pb.NOSPACE))
