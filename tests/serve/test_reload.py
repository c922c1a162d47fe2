"""A configuration that changes while the server runs."""

from __future__ import annotations

import asyncio
import os

import pytest

from steelyard.core.errors import ParamsError
from steelyard.serve.config import ServeConfig
from steelyard.serve.files import read_config_file
from steelyard.serve.reload import POLL_S, ConfigWatch
from steelyard.serve.settings import load_config
from steelyard.sim.virtual import run_virtual


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "server.yaml"
    path.write_text("requests_per_min: 1\n", encoding="utf-8")
    return path


def write(path, text: str) -> None:
    """Write a file so that its time of change differs, however coarse the clock of the disk is."""
    before = path.stat().st_mtime_ns
    path.write_text(text, encoding="utf-8")
    os.utime(path, ns=(before + 1, before + 1))


def watched(path, applied: list[ServeConfig], *, fail: bool = False) -> ConfigWatch:
    def apply(config: ServeConfig) -> None:
        if fail:
            raise ZeroDivisionError
        applied.append(config)

    return ConfigWatch(lambda: load_config({}, file=read_config_file(str(path))), [str(path)], apply)


def rates(applied: list[ServeConfig]) -> list[float | None]:
    return [config.sharing.default.requests_per_min for config in applied]


def test_a_file_that_changes_is_read_again(path):
    async def main() -> None:
        applied: list[ServeConfig] = []
        watch = watched(path, applied)
        task = asyncio.create_task(watch.run())
        await asyncio.sleep(3 * POLL_S)
        assert applied == [], "nothing has changed"
        write(path, "requests_per_min: 2\n")
        await asyncio.sleep(2 * POLL_S)
        assert rates(applied) == [2.0]
        await asyncio.sleep(3 * POLL_S)
        assert rates(applied) == [2.0], "read once for each change"
        watch.ask()
        await asyncio.sleep(0.01)
        assert rates(applied) == [2.0, 2.0], "asked to, it reads at once"
        task.cancel()

    run_virtual(main())


@pytest.mark.parametrize("wrong", ["requests_per_min: many\n", "nonsense: 1\n", "a: [", None])
def test_what_is_wrong_is_logged_and_changes_nothing(path, caplog, monkeypatch, wrong):
    monkeypatch.setattr("steelyard.serve.reload.logger.propagate", True)

    async def main() -> None:
        applied: list[ServeConfig] = []
        task = asyncio.create_task(watched(path, applied).run())
        await asyncio.sleep(POLL_S)
        if wrong is None:
            path.unlink()
        else:
            write(path, wrong)
        await asyncio.sleep(2 * POLL_S)
        assert applied == []
        assert caplog.text.count("the configuration stays as it was") == 1
        path.write_text("requests_per_min: 30\n", encoding="utf-8")
        await asyncio.sleep(2 * POLL_S)
        assert rates(applied) == [30.0], "the next good one counts"
        task.cancel()

    run_virtual(main())


def test_a_bug_of_ours_does_not_end_the_watch(path, caplog, monkeypatch):
    monkeypatch.setattr("steelyard.serve.reload.logger.propagate", True)

    async def main() -> None:
        watch = watched(path, [], fail=True)
        task = asyncio.create_task(watch.run())
        for _ in range(2):
            watch.ask()
            await asyncio.sleep(POLL_S)
        assert not task.done()
        task.cancel()

    run_virtual(main())
    assert caplog.text.count("the configuration stays as it was") == 2


def test_limits_of_keys_come_from_the_file(path):
    write(
        path,
        "schedule-policy: vtc\nrequests-per-min: 60\nmax_concurrent: 4\nkv_overcommit: 2.5\nkeys:\n"
        "  ann: {requests-per-min: 5, weight: 2, priority: -1}\n  bob: {tokens_per_min: 1e5, max_concurrent: null}\n",
    )
    sharing = load_config({}, file=read_config_file(str(path))).sharing
    assert (sharing.default.requests_per_min, sharing.default.max_concurrent, sharing.kv_overcommit) == (60.0, 4, 2.5)
    ann, bob = sharing.limits_of("ann"), sharing.limits_of("bob")
    assert (ann.requests_per_min, ann.max_concurrent, ann.weight, ann.priority) == (5.0, 4, 2.0, -1)
    assert (bob.requests_per_min, bob.tokens_per_min, bob.max_concurrent) == (60.0, 1e5, 4)
    assert sharing.limits_of("cyd") == sharing.default


@pytest.mark.parametrize(
    ("keys", "field"),
    [
        ("3", "keys"), ("[ann]", "keys"), ("{ann: 3}", "keys.ann"), ("{ann: {}}", "keys.ann"),
        ("{ann: {requests: 3}}", "keys.ann"), ("{ann: {requests_per_min: 0}}", "keys.ann.requests_per_min"),
        ("{ann: {max_concurrent: 0}}", "keys.ann.max_concurrent"), ("{ann: {priority: 1.5}}", "keys.ann.priority"),
        ("{ann: {priority: true}}", "keys.ann.priority"), ("{ann: {tokens_per_min: .inf}}", "keys.ann.tokens_per_min"),
        ("{ann: {weight: 2}}", "keys"),
    ],
)  # fmt: skip
def test_limits_of_keys_that_are_no_good(path, keys, field):
    write(path, f"keys: {keys}\n")
    with pytest.raises(ParamsError) as caught:
        load_config({}, file=read_config_file(str(path)))
    assert caught.value.field == field


def test_limits_of_keys_are_nothing_for_a_variable():
    assert load_config({}, {"keys": "{ann: {priority: 1}}"}).sharing.keys == {}
