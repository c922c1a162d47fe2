"""The benchmark of the server without a server: what it reads, what it counts and what it says of it."""

from __future__ import annotations

import json

import pytest
from peerbench.cache import Cache
from peerbench.child import PeerError
from peerbench.contenders import OURS
from servebench import report
from servebench.http_layer import TARGETS, HttpFigures, lua, read_wrk
from servebench.instrumented_server import END
from servebench.latency import step_ends_s
from servebench.load import OFFLINE_NAME, TIMES, Figures, Load, figures_of, take_turns, warm_up
from servebench.servers import SERVERS, answers, free_port, missing
from servebench.steady import lua as steady_lua
from servebench.steady_engine import least, most
from servebench.wire import request_bytes

LOAD = Load(users=2, requests=4, prompt_tokens=8, output_tokens=5)
TOLD = {"failed": 0, "total_output_tokens": 20, "duration": 2.0, "cpu_s": 0.5, **dict.fromkeys(TIMES, 1.5)}
WRK = """
    50%  310.00us
    90%    5.31ms
    99%    1.02s
  56000 requests in 5.00s, 1.00MB read
Requests/sec:  11279.51
"""


def figures(tokens_per_s: float) -> Figures:
    return Figures(tokens_per_s=tokens_per_s, times_ms=dict.fromkeys(TIMES, 2.0), client_cores=0.25, server_cores=1.5)


class FakeTaker:
    """Remembers what it was given; raises at the load of so many users."""

    def __init__(self, name: str, log: list[tuple[str, int, int]], refused_users: int = 0) -> None:
        self._name, self._log, self._refused_users = name, log, refused_users

    def take(self, load: Load, seed: int) -> Figures:
        if load.users == self._refused_users:
            raise PeerError("too many")
        self._log.append((self._name, load.users, load.output_tokens))
        return figures(float(seed))

    def kill(self) -> None:
        pass


def test_a_load_is_taken_only_if_all_its_tokens_came() -> None:
    taken = figures_of(TOLD, LOAD, server_s=3.0, miscount=0.0)
    assert taken == Figures(tokens_per_s=10.0, times_ms=dict.fromkeys(TIMES, 1.5), client_cores=0.25, server_cores=1.5)
    with pytest.raises(PeerError, match="1 requests failed"):
        figures_of({**TOLD, "failed": 1}, LOAD, 3.0, 0.0)
    with pytest.raises(PeerError, match="19 of 20 tokens"):
        figures_of({**TOLD, "total_output_tokens": 19}, LOAD, 3.0, 0.0)


def test_a_count_that_was_made_anew_may_be_a_little_off_and_changes_no_rate() -> None:
    for counted in (18, 22):
        assert figures_of({**TOLD, "total_output_tokens": counted}, LOAD, 3.0, 0.1).tokens_per_s == 10.0
    for counted in (17, 23):
        with pytest.raises(PeerError, match=f"{counted} of 20 tokens"):
            figures_of({**TOLD, "total_output_tokens": counted}, LOAD, 3.0, 0.1)


def test_contenders_take_turns_after_a_round_that_does_not_count() -> None:
    log: list[tuple[str, int, int]] = []
    small, large = LOAD, Load(users=3, requests=6, prompt_tokens=8, output_tokens=5)
    takers = {"a": FakeTaker("a", log), "b": FakeTaker("b", log, refused_users=3)}
    taken, failed = take_turns(takers, [small, large], repeats=2)
    warm = warm_up(small).output_tokens
    assert log[:3] == [("a", 2, warm), ("b", 2, warm), ("a", 3, warm_up(large).output_tokens)]
    assert log[3:] == [("a", 2, 5), ("b", 2, 5), ("a", 3, 5)] * 2
    assert {key: len(rounds) for key, rounds in taken.items()} == {("a", 2): 2, ("b", 2): 2, ("a", 3): 2}
    assert failed == {"b, 3 users": "too many"}
    # Everybody gets the same prompts in a round, and new ones in the next.
    assert [each.tokens_per_s for each in taken["a", 2]] == [each.tokens_per_s for each in taken["b", 2]]
    assert taken["a", 2][0] != taken["a", 2][1]


def test_the_report_compares_rounds_with_the_engine_and_with_the_best_other_server() -> None:
    taken = {
        (OFFLINE_NAME, 2): [figures(100.0), figures(200.0)],
        (OURS, 2): [figures(95.0), figures(190.0)],
        ("slow", 2): [figures(10.0), figures(20.0)],
        ("fast", 2): [figures(70.0), figures(80.0)],
    }
    table = report.load_table(taken, 2)
    assert table[2] == f"| {OFFLINE_NAME} | 150 (100 … 200) | 1.00 | – | – | – | – |"
    ours = "| 142 (95 … 190) | 0.95 | 2.0 / 2.0 | 2.0 / 2.0 | 1.50 cores | 0.25 cores |"
    assert table[3] == f"| {OURS} {ours}"
    assert "keeps 0.95 (0.95 … 0.95)" in report.kept(taken, 2)
    assert "1.00 of the aim of 0.95" in report.kept(taken, 2)
    assert report.standings(taken, [1, 2]) == ["- 2 users: 1.90× fast"]


def test_percentiles_are_values_that_were_seen() -> None:
    values = [float(number) for number in range(200, 0, -1)]
    assert [report.percentile(values, percent) for percent in (0, 50, 99, 100)] == [1.0, 100.0, 198.0, 200.0]
    (line,) = report.added_lines([0.0005] * 99 + [0.004])
    assert "100 tokens" in line
    assert "p99 0.50, most 4.00; the p99 is 0.25 of the limit of 2 ms" in line


def test_starts_are_held_against_the_limit() -> None:
    lines = report.start_lines({OURS: [1.4, 1.5, 1.6], "other": [0.3], "absent": []})
    assert lines[0].endswith(f"{OURS} 1.50 (1.40 … 1.60), 0.50 of the limit of 3 s")
    assert len(lines) == 2


def test_wrk_is_read_in_its_units_and_only_if_every_answer_was_good() -> None:
    assert read_wrk(WRK) == HttpFigures(requests_per_s=11279.51, p50_ms=pytest.approx(0.31), p99_ms=1020.0)
    for failure in ("Non-2xx or 3xx responses: 7", "Socket errors: connect 0, read 3, write 0, timeout 0"):
        with pytest.raises(PeerError, match=failure):
            read_wrk(WRK + f"  {failure}\n")
    with pytest.raises(PeerError, match="wrk told no"):
        read_wrk("unable to connect")


def test_every_target_of_wrk_is_in_the_table_with_its_tokens() -> None:
    rows = report.http_table({name: read_wrk(WRK) for name in TARGETS})[2:]
    assert len(rows) == len(TARGETS)
    assert "| 721889 |" in next(row for row in rows if "64 tokens" in row)
    assert lua(TARGETS["/health"]) == ""
    assert 'wrk.method = "POST"' in lua(TARGETS["/tokenize"])


def test_a_request_on_the_wire_says_how_long_it_is() -> None:
    head, _, body = request_bytes("http://127.0.0.1:5", {"prompt": "ä"}).partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:5\r\n")
    assert f"Content-Length: {len(body)}".encode() in head
    assert json.loads(body) == {"prompt": "ä"}


def test_the_ends_of_steps_are_read_as_they_were_written(tmp_path) -> None:
    log = tmp_path / "step-ends"
    assert step_ends_s(log) == []
    log.write_bytes(END.pack(1.5) + END.pack(2.25))
    assert step_ends_s(log) == [1.5, 2.25]


def test_what_a_server_lacks_is_told(tmp_path) -> None:
    cache = Cache(tmp_path)
    assert missing(SERVERS[OURS], cache) is None
    assert missing(SERVERS["vllm float32"], cache) == "environment vllm is not set up"
    assert not answers(f"http://127.0.0.1:{free_port()}/health")


def test_a_steady_load_has_unlike_answers_of_the_mean_that_was_asked_for() -> None:
    assert [(least(mean), most(mean)) for mean in (1, 2, 64)] == [(1, 1), (1, 3), (32, 96)]
    script = steady_lua(Load(users=2, requests=4, prompt_tokens=8, output_tokens=64), seed=3)
    assert "math.randomseed(3)" in script
    assert "math.random(32, 96)" in script
    assert "{{" not in script
    assert "}}" not in script


def test_what_a_server_keeps_is_the_median_of_the_rounds_own_ratios() -> None:
    rounds = [(figures(90.0), figures(100.0)), (figures(100.0), figures(100.0)), (figures(190.0), figures(200.0))]
    (line,) = report.steady_lines(rounds, 64)
    assert "the server keeps 0.95 (0.90 … 1.00), 1.00 of the aim of 0.95" in line
