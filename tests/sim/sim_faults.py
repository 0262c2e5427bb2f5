"""Decides by the seed what goes wrong and when, until everything is calm."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sim_network import SLOW, Link

if TYPE_CHECKING:
    from sim_world import World


async def break_things(world: World, until: float) -> None:
    """Causes one fault after the other until the time `until`, and then heals links and workers."""
    while world.loop.time() < until:
        await world.loop.pass_time(world.rng.expovariate(2.0))
        _break_something(world)
    for link in list(world.links.values()):
        link.heal()
    for worker in world.workers:
        worker.calm_down()


def _break_something(world: World) -> None:
    rng, trace = world.rng, world.trace
    worker = rng.choice(world.workers)
    match rng.randrange(17):
        case 0:
            # Not each time, because most workers must live long enough to be cut off and to reconnect.
            if rng.random() < 0.4:
                trace.fault("a worker crashes", worker.instance)
                worker.crash()
        case 1:
            if rng.random() < 0.4:
                trace.fault("a worker is asked to stop", worker.instance)
                worker.drain()
        case 2:
            worker.break_runner()
        case 3:
            callback = rng.choice(list(world.callbacks.values()))
            if rng.random() < 0.5:
                trace.fault("a callback worker crashes", callback.id)
                callback.crash()
            else:
                trace.fault("a callback worker is silent", callback.id)
                callback.fall_silent()
        case 4:
            _step_clock(world)
        case 5:
            if rng.random() < 0.7:
                _slow_disk(world)
            else:
                seconds = rng.choice([1.2, 3.0, 5.0, 20.0])
                trace.fault("everything stands still for a while", f"{seconds:g} s")
                world.loop.stand_still(seconds)
                world.stood_still_at = world.loop.now
        case 6:
            if rng.random() < 0.4:
                seconds = rng.uniform(0.5, 6.0)
                trace.fault("disk full for a while", f"{seconds:.1f} s")
                world.disk_full_until = world.loop.time() + seconds
        case 7 | 8:
            connected = [each for each in world.workers if each.life.is_welcome]
            if connected:
                worker, seconds = rng.choice(connected), rng.choice([1.5, 5.0, 5.0, 6.0, 12.0])
                trace.fault("a worker is cut off from the network", worker.instance, f"for {seconds:g} s")
                worker.cut_off(seconds)
        case 9 | 10:
            worker.lie(world.checks.work.fences_of_late())
        case _:
            links = list(world.links.values())
            if links:
                _break_link(world, rng.choice(links))


def _break_link(world: World, link: Link) -> None:
    rng, trace = world.rng, world.trace
    match rng.randrange(6):
        case 0:
            trace.fault("a stream breaks at both ends", link.connection)
            link.cut()
        case 1 | 2:
            trace.fault("a stream breaks at the worker's end first", link.connection)
            # Slow first, so that frames are under way when the stream breaks.
            link.delays = SLOW
            world.loop.later(0.5, link.linger)
        case 3 | 4:
            way, seconds = rng.choice(["up", "down", "both"]), rng.uniform(0.5, 12.0)
            trace.fault(f"a stream is silent ({way})", link.connection, f"for {seconds:.1f} s")
            link.silence(way, seconds)
        case _:
            trace.fault("a stream is slow", link.connection)
            link.delays = SLOW


def _step_clock(world: World) -> None:
    world.step_wall(world.rng.choice([-60_000, -500, 0, 500, 60_000]))
    world.trace.fault("the wall clock steps", world.wall_step_ms, "ms")


def _slow_disk(world: World) -> None:
    loop = world.loop
    quick, loop.io_seconds = (0.0002, 0.02), (0.2, world.rng.choice([0.5, 2.0]))
    world.trace.fault("the disk is slow")
    loop.call_later(world.rng.uniform(0.5, 3.0), setattr, loop, "io_seconds", quick)
