"""The virtual event loop: order, determinism, asyncio's own primitives on it, and deadlock."""

import asyncio
import contextvars
import math
import os
import random
import subprocess
import sys
import threading
from asyncio import sleep

import pytest

from steelyard.core.clock import Stopwatch, now_s, sleep_s
from steelyard.core.errors import SteelyardError
from steelyard.sim.virtual import DeadlockError, VirtualLoop, run_virtual


async def _note_at(log, delay, name):
    await sleep(delay)
    log.append((now_s(), name))


def test_starts_at_zero_and_moves_only_when_waiting():
    async def main():
        start = now_s()
        for _ in range(100):
            await sleep(0)
        idle = now_s()
        await sleep_s(2.5)
        return start, idle, now_s()

    assert run_virtual(main()) == (0.0, 0.0, 2.5)


def test_a_million_seconds_pass_without_waiting():
    async def main():
        for _ in range(1000):
            await sleep(1000)
        return now_s()

    with Stopwatch() as watch:
        assert run_virtual(main()) == 1e6
    assert watch.elapsed_s < 60  # asleep it would be eleven days


def test_no_real_sleep_and_no_clock_is_used(monkeypatch):
    def forbidden(*_):
        raise AssertionError("the virtual loop used real time")

    import_of_time = sys.modules["time"]
    monkeypatch.setattr(import_of_time, "sleep", forbidden)
    monkeypatch.setattr(import_of_time, "monotonic", forbidden)
    assert run_virtual(sleep(1e9, "done")) == "done"


def test_no_file_descriptor_is_opened():
    before = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    loop = VirtualLoop()
    after = os.listdir("/proc/self/fd") if os.path.isdir("/proc/self/fd") else []
    loop.close()
    assert len(after) == len(before)


def test_timers_run_by_time_then_by_insertion():
    order = []
    loop = VirtualLoop()
    for i in range(300):
        loop.call_at((i * 7) % 5, order.append, ((i * 7) % 5, i))
    loop.call_at(10, loop.stop)
    loop.run_forever()
    loop.close()
    assert order == sorted(order)
    assert len(order) == 300


def test_equal_deadlines_wake_in_order_of_creation():
    log = []

    async def main():
        await asyncio.gather(*(_note_at(log, 1.0, i) for i in range(500)))

    run_virtual(main())
    assert log == [(1.0, i) for i in range(500)]


def test_past_timer_runs_on_the_next_turn_and_time_never_goes_back():
    seen = []

    async def main():
        await sleep(5)
        loop = asyncio.get_running_loop()
        loop.call_at(1.0, lambda: seen.append(loop.time()))
        loop.call_later(-3.0, lambda: seen.append(loop.time()))
        await sleep(0.5)
        return now_s()

    assert run_virtual(main()) == 5.5
    assert seen == [5.0, 5.0]


def test_time_is_the_timers_own_and_does_not_drift():
    async def main():
        loop = asyncio.get_running_loop()
        times = []
        for i in range(1, 1001):
            loop.call_at(i * 0.1, lambda: times.append(loop.time()))
        await sleep(1000)
        return times

    assert run_virtual(main()) == [i * 0.1 for i in range(1, 1001)]


def test_float_behaviour_as_documented():
    async def add_up():
        for _ in range(10):
            await sleep(0.1)
        return now_s()

    async def tiny_delay_late():
        await sleep(1e6)
        await sleep(math.ulp(1e6) / 4)
        return now_s()

    assert run_virtual(add_up()) == 0.9999999999999999
    assert run_virtual(tiny_delay_late()) == 1e6


def test_nan_is_refused_and_infinity_never_comes():
    loop = VirtualLoop()
    with pytest.raises(ValueError, match="when"):
        loop.call_at(math.nan, print)
    loop.close()
    with pytest.raises(DeadlockError):
        run_virtual(sleep(math.inf))


def test_cancelled_timers_do_not_run_or_move_the_clock():
    loop = VirtualLoop()
    ran = []
    timers = [loop.call_later(i, ran.append, i) for i in range(1, 1001)]
    for timer in timers:
        if timer.when() % 10:
            timer.cancel()
            timer.cancel()  # twice is once
    loop.run_until_complete(sleep(0))
    assert len(loop._timers) < 500  # most were cancelled, so the heap was swept
    loop.call_at(2000, loop.stop)
    loop.run_forever()
    assert ran == [i for i in range(1, 1001) if i % 10 == 0]
    assert loop._num_cancelled == 0
    far = loop.call_at(9999, ran.append, "never")
    loop.call_at(3000, far.cancel)
    loop.call_at(4000, loop.stop)
    loop.run_forever()
    assert loop.time() == 4000
    loop.close()


def test_a_timer_cancelled_while_due_does_not_run():
    loop, ran = VirtualLoop(), []
    loop.call_at(1, lambda: second.cancel())
    second = loop.call_at(1, ran.append, "second")
    loop.call_at(2, loop.stop)
    loop.run_forever()
    loop.close()
    assert ran == []


def test_task_cancellation():
    async def main():
        task = asyncio.create_task(sleep(100))
        await sleep(3)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return now_s()

    assert run_virtual(main()) == 3.0


def test_wait_for_and_timeout():
    async def main():
        assert await asyncio.wait_for(sleep(1, "in time"), timeout=2) == "in time"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(sleep(10), timeout=2)
        first = now_s()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.25):
                await asyncio.Event().wait()
        return first, now_s()

    assert run_virtual(main()) == (3.0, 3.25)


def test_queue_between_producer_and_consumer():
    async def produce(queue):
        for i in range(5):
            await sleep(1)
            await queue.put(i)

    async def main():
        queue = asyncio.Queue(maxsize=1)
        producer = asyncio.create_task(produce(queue))
        got = []
        for _ in range(5):
            got.append((await queue.get(), now_s()))
            await sleep(2)
        await producer
        return got

    assert run_virtual(main()) == [(0, 1.0), (1, 3.0), (2, 5.0), (3, 7.0), (4, 9.0)]


def test_task_group_cancels_siblings_in_order_of_creation():
    cancelled = []

    async def wait(i):
        try:
            await sleep(100)
        except asyncio.CancelledError:
            cancelled.append(i)
            raise

    async def fail():
        await sleep(1)
        raise KeyError("one of them fails")

    async def main():
        async with asyncio.TaskGroup() as group:
            for i in range(200):
                group.create_task(wait(i))
            group.create_task(fail())

    with pytest.raises(ExceptionGroup):
        run_virtual(main())
    assert sorted(cancelled) == list(range(200))
    assert cancelled == list(range(200))


def _random_run(seed, num_tasks=1000):
    """Tasks that sleep, queue, lock, time out and cancel one another at random; return everything in order."""
    log, rng = [], random.Random(seed)

    async def work(i, queue, lock, tasks):
        for _ in range(rng.randrange(1, 5)):
            choice = rng.randrange(5)
            if choice == 0:
                await sleep(rng.choice((0, 0.5, 0.5, rng.random())))
            elif choice == 1:
                queue.put_nowait(i)
            elif choice == 2:
                async with lock:
                    await sleep(0.01)
            elif choice == 3:
                try:
                    log.append((now_s(), i, "got", await asyncio.wait_for(queue.get(), 0.3)))
                except TimeoutError:
                    log.append((now_s(), i, "nothing"))
            elif tasks:
                rng.choice(tasks).cancel()
            log.append((now_s(), i))

    async def main():
        queue, lock, tasks = asyncio.Queue(), asyncio.Lock(), []
        for i in range(num_tasks):
            tasks.append(asyncio.create_task(work(i, queue, lock, tasks)))
            if rng.random() < 0.1:
                await sleep(rng.random() * 0.1)
        done, _ = await asyncio.wait(tasks)
        log.append([task.cancelled() for task in done])  # a set's order
        return now_s()

    return run_virtual(main()), log


def test_a_thousand_random_tasks_run_alike_every_time():
    first = _random_run(7)
    assert len(first[1]) > 1000
    assert all(_random_run(7) == first for _ in range(3))
    assert _random_run(8) != first


def test_same_run_in_another_process_with_another_memory_layout():
    code = "import test_virtual as t, hashlib; print(hashlib.sha256(repr(t._random_run(3)).encode()).hexdigest())"
    here = os.path.dirname(__file__)
    digests = {
        subprocess.run(
            [sys.executable, "-c", f"ballast = [object() for _ in range({n})]; {code}"],
            cwd=here, env={**os.environ, "PYTHONHASHSEED": str(n)}, capture_output=True, text=True, check=True,
        ).stdout
        for n in (1, 12345)
    }  # fmt: skip
    assert len(digests) == 1


def test_deadlock_is_found_named_and_cleaned_up():
    cleaned = []

    async def stuck():
        try:
            await asyncio.Event().wait()
        finally:
            await sleep(1)  # time still passes during the clean-up
            cleaned.append(now_s())

    async def main():
        other = asyncio.create_task(stuck(), name="the stuck one")
        await sleep(4)
        await other

    with pytest.raises(DeadlockError, match=r"at 4 s .*the stuck one") as caught:
        run_virtual(main())
    assert isinstance(caught.value, SteelyardError)
    assert caught.value.remedy
    assert cleaned == [5.0]


def test_deadlock_of_run_forever_and_of_many():
    loop = VirtualLoop()
    with pytest.raises(DeadlockError, match="no task"):
        loop.run_forever()
    loop.close()

    async def main():
        await asyncio.gather(*(asyncio.Event().wait() for _ in range(20)))

    with pytest.raises(DeadlockError, match="and 16 more"):
        run_virtual(main())


def test_leftover_tasks_are_cancelled_and_generators_closed():
    closed = []

    async def numbers():
        try:
            yield 1
            yield 2
        finally:
            closed.append("generator")

    async def background():
        try:
            await sleep(1e9)
        finally:
            closed.append("task")

    kept = []

    async def main():
        kept.append(asyncio.create_task(background()))
        generator = numbers()
        kept.append(generator)
        await anext(generator)
        await sleep(1)
        return "result"

    assert run_virtual(main()) == "result"
    assert sorted(closed) == ["generator", "task"]


def test_errors_pass_through():
    async def main():
        await sleep(1)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run_virtual(main())


def test_executor_calls_run_inline_in_no_time():
    async def main():
        loop = asyncio.get_running_loop()
        thread = await asyncio.to_thread(threading.get_ident)
        total = await loop.run_in_executor(None, sum, [1, 2, 3])
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, lambda: 1 / 0)
        return thread, total, now_s()

    assert run_virtual(main()) == (threading.get_ident(), 6, 0.0)


def test_calls_from_another_thread_are_served():
    async def main():
        loop, event = asyncio.get_running_loop(), asyncio.Event()
        thread = threading.Thread(target=loop.call_soon_threadsafe, args=(event.set,))
        thread.start()
        thread.join()
        await event.wait()
        return True

    assert run_virtual(main())


def test_context_variables_follow_timers():
    variable = contextvars.ContextVar("variable", default="outer")
    context = contextvars.copy_context()
    context.run(variable.set, "inner")
    loop, seen = VirtualLoop(), []
    loop.call_later(1, lambda: seen.append(variable.get()), context=context)
    loop.call_later(1, lambda: seen.append(variable.get()))
    loop.call_later(2, loop.stop)
    loop.run_forever()
    loop.close()
    assert seen == ["inner", "outer"]


def test_closed_and_nested_loops_are_refused():
    loop = VirtualLoop()
    loop.call_later(1, print)
    loop.close()
    loop.close()
    assert not loop._timers
    with pytest.raises(RuntimeError, match="closed"):
        loop.call_later(1, print)

    async def main():
        inner = sleep(1)
        try:
            run_virtual(inner)
        finally:
            inner.close()

    with pytest.raises(RuntimeError, match="loop is running"):
        run_virtual(main())
