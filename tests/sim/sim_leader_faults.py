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


async def break_leaders(world: SeveralWorld, until: float) -> None:
    """Causes one fault after the other until the time `until`, and then heals all leaders."""
    while world.loop.now < until:
        await world.loop.pass_time(world.rng.expovariate(0.7))
        await world.loop.pass_time(_break_something(world))
    _fill(world, False)
    for node in world.nodes:
        node.calm_down()


def _break_something(world: SeveralWorld) -> float:
    """Causes a fault. Returns for how long no other is caused, in seconds, because some faults take a while to act."""
    quiet = 0.0
    rng, trace = world.rng, world.trace
    leading = [node for node in world.nodes if node.process is not None and node.process.seat is not None]
    node = rng.choice(leading if leading and rng.random() < 0.7 else world.nodes)
    match rng.randrange(17):
        case 0:
            trace.fault("a leader's process is killed", node.name)
            node.kill(power_cut=False)
        case 1:
            trace.fault("a leader's machine loses its power", node.name)
            node.kill(power_cut=True)
        case 2:
            trace.fault("etcd gets late what a leader sends, and the leader dies", node.name)
            node.holds_back = True
            world.loop.later(rng.uniform(0.05, 0.4), _die, world, node)
        case 3:
            # All others must have a store, or the log might be pruned of what nobody has.
            others = [each for each in world.nodes if each is not node]
            if not world.has_lost_a_disk and all(world.applied(each.name) is not None for each in others):
                world.has_lost_a_disk = True
                trace.fault("a leader's disk is lost", node.name)
                node.kill(power_cut=True, loses_disk=True)
        case 4 | 5:
            seconds = rng.choice([0.5, 2.0, 3.5, 6.0, 12.0])
            trace.fault("a leader is stopped for a while", node.name, f"for {seconds:g} s")
            node.pause(seconds)
        case 6 | 7:
            seconds, is_deceived = rng.choice([1.0, 4.0, 7.0, 12.0]), rng.random() < 0.6
            trace.fault("a leader is cut off from etcd", node.name, f"for {seconds:g} s")
            if is_deceived:
                trace.fault("the keepalives of a leader that is cut off are answered", node.name)
            node.cut_from_etcd(seconds, is_deceived=is_deceived)
        case 8:
            seconds = rng.choice([2.0, 6.0, 12.0])
            trace.fault("a leader is cut off from all but etcd", node.name, f"for {seconds:g} s")
            node.isolate(seconds)
        case 9:
            trace.fault("a leader reaches etcd slowly", node.name)
            node.is_slow = True
            world.loop.later(rng.uniform(1.0, 5.0), setattr, node, "is_slow", False)
        case 10:
            if node.process is not None and rng.random() < 0.7:
                trace.fault("a leader steps down", node.name)
                node.process.step_down()
            else:
                trace.fault("a leader is asked to stop", node.name)
                node.ask_to_stop()
        case 11:
            trace.fault("etcd has a new leader")
            world.etcd.extend_leases()
            for each in world.nodes:
                if each.process is not None:
                    each.process.link.break_streams()
        case 12:
            trace.fault("etcd answers a leader late, and then loses its keepalives", node.name)
            node.drags, quiet = True, rng.choice((0.0, 5.0))
            world.loop.later(1.5, setattr, node, "loses_keepalives", True)
            world.loop.later(6.0, _drag_no_more, node)
        case 13:
            seconds = rng.choice([4.0, 6.0, 9.0])
            trace.fault("the keepalives of a leader are answered and not done", node.name, f"for {seconds:g} s")
            node.lie(seconds)
            quiet = rng.choice((0.0, 4.0))
        case 14:
            node.parts_left = rng.choice((1, 1, 2))
        case 15:
            # The log waits for the second of two stores.
            following = [each for each in world.nodes if each not in leading and len(world.nodes) > 2]
            if following:
                _leave_behind(world, rng.choice(following), world.loop.now + _BEHIND_SECONDS)
                quiet = rng.choice((0.0, 9.0, 9.0))
        case _:
            if rng.random() < 0.4:
                trace.fault("etcd is full for a while")
                _fill(world, True)
                world.loop.later(rng.uniform(0.5, 4.0), _fill, world, False)
    return quiet


def _die(world: SeveralWorld, node: SimNode) -> None:
    node.holds_back = False
    node.kill(power_cut=world.rng.random() < 0.5)


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


def _drag_no_more(node: SimNode) -> None:
    node.drags = node.loses_keepalives = False


def _fill(world: SeveralWorld, is_full: bool) -> None:
    action = pb.AlarmRequest.ACTIVATE if is_full else pb.AlarmRequest.DEACTIVATE
    world.etcd.do(pb.AlarmRequest(action=action, alarm=pb.NOSPACE))
