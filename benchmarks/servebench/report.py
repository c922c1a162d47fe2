"""From figures to tables: medians with lowest and highest, ratios, and how far the aims are reached."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from peerbench.contenders import OURS
from peerbench.report import row, spread

from servebench.http_layer import TARGETS, HttpFigures
from servebench.load import OFFLINE_NAME, Figures

OF_OFFLINE_AIM = 0.95
ADDED_AIM_MS = 2.0
START_AIM_S = 3.0


def load_table(figures: Mapping[tuple[str, int], Sequence[Figures]], users: int) -> list[str]:
    """Return the table of one number of users, our server last against the best other one."""
    shown = {name: rounds for (name, number), rounds in figures.items() if number == users}
    titles = ("tok/s", "of the engine alone", "TTFT median / p99, ms", "ITL median / p99, ms", "server", "client")
    lines = [row([f"{users} users", *titles]), row(["---"] * (len(titles) + 1))]
    for name, rounds in shown.items():
        cells = [str(spread([each.tokens_per_s for each in rounds])), _of_offline(shown, name)]
        if name == OFFLINE_NAME:
            lines.append(row([name, *cells, *["–"] * 4]))
            continue
        cells += [_times(rounds, kind) for kind in ("ttft", "itl")]
        cells += [f"{median(rounds, what):.2f} cores" for what in ("server_cores", "client_cores")]
        lines.append(row([name, *cells]))
    return lines


def standings(figures: Mapping[tuple[str, int], Sequence[Figures]], users: Sequence[int]) -> list[str]:
    """Return our server against the best other one, a line for each number of users."""
    lines = []
    for number in users:
        rates = {name: rate for name, rate in _rates(figures, number).items() if name != OFFLINE_NAME}
        ours = rates.pop(OURS, None)
        if ours is not None and rates:
            best = max(rates, key=lambda name: rates[name])
            lines.append(f"- {number} users: {ours / rates[best]:.2f}× {best}")
    return lines


def kept(figures: Mapping[tuple[str, int], Sequence[Figures]], users: int) -> str:
    """Return how much of the engine's throughput our server keeps, by the rounds' own ratios."""
    pairs = zip(figures[OURS, users], figures[OFFLINE_NAME, users], strict=True)
    ratios = spread([ours.tokens_per_s / alone.tokens_per_s for ours, alone in pairs])
    client_cores = median(figures[OURS, users], "client_cores")
    return (
        f"- the server keeps {ratios} of the engine's throughput at {users} users, "
        f"{ratios.median / OF_OFFLINE_AIM:.2f} of the aim of {OF_OFFLINE_AIM}; the load generator took "
        f"{client_cores:.2f} of the cores that both compute on"
    )


def steady_lines(rounds: Sequence[tuple[Figures, Figures]], users: int) -> list[str]:
    """Return what the server keeps of the engine's throughput under wrk, by the rounds' own ratios."""
    ours, alone = ([pair[index].tokens_per_s for pair in rounds] for index in (0, 1))
    ratios = spread([one / other for one, other in zip(ours, alone, strict=True)])
    return [
        f"- {users} users by wrk: {spread(ours)} tok/s of the engine's {spread(alone)}; the server keeps {ratios}, "
        f"{ratios.median / OF_OFFLINE_AIM:.2f} of the aim of {OF_OFFLINE_AIM}"
    ]


def http_table(figures: Mapping[str, HttpFigures]) -> list[str]:
    """Return the table of the HTTP layer."""
    lines = [row(["64 connections", "requests/s", "streamed or answered tokens/s", "median, ms", "p99, ms"])]
    lines.append(row(["---"] * 5))
    for name, each in figures.items():
        tokens = TARGETS[name].tokens
        rate = f"{each.requests_per_s * tokens:.0f}" if tokens else "–"
        lines.append(row([name, f"{each.requests_per_s:.0f}", rate, f"{each.p50_ms:.1f}", f"{each.p99_ms:.1f}"]))
    return lines


def added_lines(added_s: Sequence[float]) -> list[str]:
    """Return what is said of the latency that was added to each token."""
    p50, p90, p99 = (percentile(added_s, percent) * 1e3 for percent in (50, 90, 99))
    return [
        f"- added to each token of one stream, from the step's end to the client's socket, {len(added_s)} tokens: "
        f"median {p50:.2f} ms, p90 {p90:.2f}, p99 {p99:.2f}, most {max(added_s) * 1e3:.2f}; the p99 is "
        f"{p99 / ADDED_AIM_MS:.2f} of the limit of {ADDED_AIM_MS:g} ms"
    ]


def start_lines(figures: Mapping[str, Sequence[float]]) -> list[str]:
    """Return what is said of the servers' starts."""
    lines = [f"- process start → first token, s: {name} {spread(times)}" for name, times in figures.items() if times]
    if figures.get(OURS):
        lines[0] += f", {statistics.median(figures[OURS]) / START_AIM_S:.2f} of the limit of {START_AIM_S:g} s"
    return lines


def percentile(values: Sequence[float], percent: int) -> float:
    """Return the smallest value that so many of a hundred values do not exceed."""
    return sorted(values)[max(0, -(-len(values) * percent // 100) - 1)]


def median(rounds: Sequence[Figures], what: str) -> float:
    """Return the median over the rounds of one of the figures' numbers."""
    return statistics.median(getattr(each, what) for each in rounds)


def _rates(figures: Mapping[tuple[str, int], Sequence[Figures]], users: int) -> dict[str, float]:
    return {name: median(rounds, "tokens_per_s") for (name, number), rounds in figures.items() if number == users}


def _of_offline(shown: Mapping[str, Sequence[Figures]], name: str) -> str:
    if OFFLINE_NAME not in shown:
        return "–"
    return f"{median(shown[name], 'tokens_per_s') / median(shown[OFFLINE_NAME], 'tokens_per_s'):.2f}"


def _times(rounds: Sequence[Figures], kind: str) -> str:
    half, most = (
        statistics.median(each.times_ms[f"{part}_{kind}_ms"] for each in rounds) for part in ("median", "p99")
    )
    return f"{half:.1f} / {most:.1f}"
