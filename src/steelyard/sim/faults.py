"""Faults come true: machines die, slow down and are cut off while a trace is simulated.

What is drawn depends on the simulation's seed, the fault's place in the list and the machine alone. A fault finds
nothing to do where no machine stands, and machines that an autoscaler adds are spared. Everybody notices at once: there
is no heartbeat here that a death would first have to miss.
"""

from __future__ import annotations

from collections.abc import Coroutine, Iterator
from random import Random

from steelyard.core.clock import sleep_s
from steelyard.sim.conditions import Death, Fault, LinkLoss, Slowness
from steelyard.sim.replicas import ModelledReplicas
from steelyard.sim.result import EventKind
from steelyard.sim.virtual import until


def faults_of(
    replicas: ModelledReplicas, faults: tuple[Fault, ...], seed: int
) -> Iterator[Coroutine[None, None, None]]:
    """Yield what lets each fault befall each machine that it is meant for; to be run side by side."""
    for number, fault in enumerate(faults):
        for place in replicas.places(fault.strike.machine):
            yield befall(fault, place, replicas, Random(f"{seed} {number} {place}"))


async def befall(fault: Fault, place: str, replicas: ModelledReplicas, rng: Random) -> None:
    """Let a fault befall the machine in one place, once or again and again."""
    strike = fault.strike
    if strike.at_s is not None:
        await until(strike.at_s)
        await _strike(fault, place, replicas)
        return
    assert strike.mtbf_s is not None
    while True:
        await sleep_s(rng.expovariate(1.0 / strike.mtbf_s))
        await _strike(fault, place, replicas)


async def _strike(fault: Fault, place: str, replicas: ModelledReplicas) -> None:
    """Let it strike once, and return when it is over."""
    life = replicas.standing(place)
    if life is None:
        return
    match fault:
        case Death(repair_s=repair_s):
            await replicas.kill(life)
            if repair_s is not None:
                await sleep_s(repair_s)
                replicas.start(place, EventKind.REPAIRED)
        case Slowness(for_s=for_s, factor=factor):
            replicas.slow_down(life, factor)
            await sleep_s(for_s)
            replicas.speed_up(life, factor)
        case LinkLoss(for_s=for_s):
            await replicas.cut_off(life)
            await sleep_s(for_s)
            replicas.reconnect(life)
