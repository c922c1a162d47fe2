"""The worker, in virtual time: crashes anywhere, expiry, recall, seats, and the order of lines."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_batch_store import new_batch, new_lines

from steelyard.core.errors import ParamsError
from steelyard.serve.batch.order import LINE_ORDERS, line_order
from steelyard.serve.batch.results import result_line
from steelyard.serve.batch.store import Store
from steelyard.serve.batch.types import Answer, BatchStatus, Fault, Line
from steelyard.serve.batch.worker import Seats, Worker
from steelyard.sim.virtual import run_virtual


class CrashError(BaseException):
    """The process is gone."""


class World:
    """A worker and all that it uses; the store outlives it. ``crash_at`` counts its steps down to the end."""

    def __init__(self, path, num_lines=6, line_s=1.0, seats=2, expires_at=None):
        self.path, self.num_lines, self.line_s, self.num_seats = str(path), num_lines, line_s, seats
        self.batch = new_batch("b", created_at=0, expires_at=expires_at)
        self.computed = Counter()
        self.written = None
        self.crash_at = None
        self.busy = False
        self.faults_found = []
        self.at_once = self.most_at_once = 0

    def step(self):
        if self.crash_at is not None:
            self.crash_at -= 1
            if self.crash_at < 0:
                raise CrashError

    async def __call__(self, function, *args, **kwargs):  # calls of the store
        self.step()
        found = function(*args, **kwargs)
        self.step()
        return found

    async def answer(self, batch, line):
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            self.step()
            await asyncio.sleep(self.line_s)
        finally:
            self.at_once -= 1
        self.computed[line.number] += 1
        status = 400 if line.number == 3 else 200
        return Answer(number=line.number, status=status, request_id="req", body=line.body)

    def faults(self, batch):
        return self.faults_found

    def lines(self, batch):
        return new_lines(self.num_lines)

    def finalise(self, batch, at):
        self.step()
        written = [result_line(batch, outcome) for outcome in self.store.outcomes(batch.id)]
        self.written = written
        self.step()
        end = BatchStatus.CANCELLED if batch.status is BatchStatus.CANCELLING else BatchStatus.COMPLETED
        self.store.end(batch.id, end, at, only_from=batch.status, results=(None, None))

    def worker(self):
        loop = asyncio.get_running_loop()
        return Worker(
            self.store, self, self, self, Seats(self.num_seats, lambda: self.busy),
            order=line_order("as_given"), now=lambda: int(loop.time()),
        )  # fmt: skip

    def run(self, life=None):
        """Live one process's life: carry the batch, or do as ``life`` says; return whether it ended in order."""
        self.store = Store(self.path)
        if self.store.batch("b") is None:
            self.store.add_batch(self.batch)

        async def carry():
            worker = self.worker()
            await (worker.carry("b") if life is None else life(worker))

        try:
            run_virtual(carry())
        except BaseException as error:
            if not isinstance(error, CrashError) and not (
                isinstance(error, BaseExceptionGroup) and error.subgroup(CrashError)
            ):
                raise
            return False
        finally:
            self.status = self.store.batch("b").status
            self.store.close()
        return True


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=5))
def test_every_line_comes_out_once_whenever_it_crashes(tmp_path_factory, crashes):
    world = World(tmp_path_factory.mktemp("store") / "s")
    for steps in crashes:
        world.crash_at = steps
        if world.run():
            break
    world.crash_at = None
    world.run()
    assert world.status is BatchStatus.COMPLETED
    told = b"".join(world.written).decode()
    assert [told.count(f'"custom_id":"line-{n}"') for n in range(1, 7)] == [1] * 6
    assert len(world.written) == 6
    assert world.written[2].count(b'"status_code":400') == 1
    assert max(world.computed.values()) <= 1 + len(crashes)


def test_no_more_lines_at_once_than_there_are_seats(tmp_path):
    world = World(tmp_path / "s", num_lines=9, seats=3)
    assert world.run()
    assert world.most_at_once == 3
    assert set(world.computed.values()) == {1}


def test_lines_wait_while_people_do(tmp_path):
    world = World(tmp_path / "s")

    async def life(worker):
        world.busy = True
        carrying = asyncio.create_task(worker.carry("b"))
        await asyncio.sleep(100)
        assert not world.computed
        world.busy = False
        await carrying

    assert world.run(life)
    assert len(world.computed) == 6


def test_what_is_not_done_in_time_expires(tmp_path):
    world = World(tmp_path / "s", seats=1, expires_at=4)
    assert world.run()
    expired = [b"batch_expired" in line for line in world.written]
    assert sum(expired) in (2, 3)
    assert sum(world.computed.values()) == 6 - sum(expired)


def test_a_recalled_batch_keeps_what_was_done(tmp_path):
    world = World(tmp_path / "s", seats=1)

    async def life(worker):
        carrying = asyncio.create_task(worker.carry("b"))
        await asyncio.sleep(2.5)
        assert world.store.move("b", BatchStatus.CANCELLING, 2, only_from=(BatchStatus.IN_PROGRESS,))
        worker.recall("b")
        await carrying

    assert world.run(life)
    assert world.status is BatchStatus.CANCELLED
    assert [b"batch_cancelled" in line for line in world.written] == [False] * 2 + [True] * 4
    assert sum(world.computed.values()) == 2


def test_faults_end_a_batch(tmp_path):
    world = World(tmp_path / "s")
    world.faults_found = [Fault(code="empty_file", message="nothing.")]
    assert world.run()
    assert world.status is BatchStatus.FAILED
    assert world.written is None


def test_it_goes_on_after_a_failure_and_sees_new_batches(tmp_path, caplog):
    world = World(tmp_path / "s")
    finalise, failures = world.finalise, [OSError("disk full")]

    def failing(batch, at):
        if failures:
            raise failures.pop()
        finalise(batch, at)

    world.finalise = failing

    async def life(worker):
        running = asyncio.create_task(worker.run())
        await asyncio.sleep(60)
        assert world.store.batch("b").status is BatchStatus.COMPLETED
        world.store.add_batch(new_batch("c", created_at=0, expires_at=None))
        worker.look()
        await asyncio.sleep(60)
        assert world.store.batch("c").status is BatchStatus.COMPLETED
        running.cancel()
        await asyncio.wait({running})

    assert world.run(life)
    assert "the batch b is held up" in caplog.text


@pytest.mark.parametrize("name", list(LINE_ORDERS))
@given(bodies=st.lists(st.text("ab", max_size=4)))
def test_an_order_loses_no_line(name, bodies):
    lines = [Line(number=n, custom_id=str(n), body=body) for n, body in enumerate(bodies)]
    assert sorted(line_order(name)(lines), key=lambda line: line.number) == lines


def test_equal_beginnings_stand_together():
    lines = [Line(number=n, custom_id=str(n), body=body) for n, body in enumerate(["ax", "b", "ay", "b"])]
    assert [line.number for line in line_order("by_prefix")(lines)] == [0, 2, 1, 3]
    with pytest.raises(ParamsError, match="as_given, by_prefix"):
        line_order("random")


def test_who_has_the_fewest_seats_gets_the_next():
    """Ann waits with a hundred lines before Bob comes with two."""

    async def main() -> list[str]:
        seats, taken = Seats(4, lambda: False), []

        async def line(owner: str) -> None:
            await seats.take(owner)
            taken.append(owner)
            await asyncio.sleep(1.0)
            seats.leave(owner)

        lines = [asyncio.create_task(line("ann")) for _ in range(100)]
        await asyncio.sleep(0.5)
        lines += [asyncio.create_task(line("bob")) for _ in range(2)]
        await asyncio.gather(*lines)
        return taken

    taken = run_virtual(main())
    assert taken[:8].count("bob") == 2  # in the first turn after they came
    assert len(taken) == 102


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_seats_are_never_lost_whoever_is_cancelled(data):
    num_seats = data.draw(st.integers(1, 3))
    owners = data.draw(st.lists(st.sampled_from("abc"), min_size=1, max_size=12))
    doomed = data.draw(st.sets(st.integers(0, len(owners) - 1)))
    at_s = data.draw(st.sampled_from([0.0, 0.5, 1.0, 1.5]))

    async def main() -> None:
        busy_until_s = data.draw(st.sampled_from([0.0, 0.7]))
        seats, loop, at_once, most = Seats(num_seats, lambda: loop.time() < busy_until_s), None, 0, 0
        loop = asyncio.get_running_loop()

        async def line(owner: str) -> None:
            nonlocal at_once, most
            await seats.take(owner)
            at_once += 1
            most = max(most, at_once)
            try:
                await asyncio.sleep(1.0)
            finally:
                at_once -= 1
                seats.leave(owner)

        lines = [asyncio.create_task(line(owner)) for owner in owners]
        await asyncio.sleep(at_s)
        for number in doomed:
            lines[number].cancel()
        await asyncio.gather(*lines, return_exceptions=True)
        assert most <= num_seats
        # All seats are free again.
        await asyncio.wait_for(asyncio.gather(*(seats.take("d") for _ in range(num_seats))), 1.0)

    run_virtual(main())
