"""Users that ask again as soon as they are answered: vLLM's load generator before servers, and the engine without one.

A round gives every contender the same load once, one after another, while the others stand still. The load generator
takes its CPU time from the cores that the servers compute on; how much it took is reported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from peerbench.cache import SCRIPTS, Cache
from peerbench.child import Child, PeerError
from peerbench.contenders import CONTENDERS, OURS
from peerbench.measure import note
from peerbench.workloads import Workload, batch_rate, check_answer, random_prompts

from servebench.servers import MODEL_NAME, ServerProcess, ServerSpec, Shape

OFFLINE_NAME = "steelyard, without a server"
CLIENT_MODEL = "hf-f32"  # the default model's tokenizer, in a form that load generators read
WARM_UP_TOKENS = 4
MISCOUNT = 0.1  # of the tokens, at most: a text may be spelt in other tokens than those it was made of
TIMES = ("median_ttft_ms", "p99_ttft_ms", "median_itl_ms", "p99_itl_ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """So many users, who together send so many requests.

    Attributes:
        users: requests at once.
        requests: of all users together.
        prompt_tokens, output_tokens: of each request.
    """

    users: int
    requests: int
    prompt_tokens: int
    output_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What one contender made of a load once.

    Attributes:
        tokens_per_s: output tokens of all users.
        times_ms: of the requests as the client saw them, by its names; empty without a client.
        client_cores: CPU seconds of the load generator per second.
        server_cores: those of the server.
    """

    tokens_per_s: float
    times_ms: Mapping[str, float] = field(default_factory=dict)
    client_cores: float = 0.0
    server_cores: float = 0.0


class Taker(Protocol):
    """Takes load, and stands still in between."""

    def take(self, load: Load, seed: int) -> Figures:
        """Take a load once; prompts differ by ``seed``.

        Raises:
            PeerError: if it cannot, or gave fewer tokens than were asked for.
        """
        ...

    def kill(self) -> None:
        """End it."""
        ...


class OfflineEngine:
    """The engine behind no server, once for each number of users: it has as many seats.

    Args:
        cache: has its log.
        threads: CPU threads.
        users: numbers of users that will be asked for.
    """

    def __init__(self, cache: Cache, threads: int, users: Sequence[int]) -> None:
        self._children: dict[int, Child] = {}
        for number in users:
            child = self._children[number] = cache.start(OURS, CONTENDERS[OURS])
            options = {"max_num_seqs": number}
            child.ask("load", model="", options=options, threads=threads, seats=number, context=0)
            child.pause()

    def take(self, load: Load, seed: int) -> Figures:
        """Give it all requests of the load at once: as many run at a time as it has seats."""
        workload = Workload(
            title="",
            num_prompts=load.requests,
            prompt_tokens=load.prompt_tokens,
            output_tokens=load.output_tokens,
            figure=batch_rate,
        )
        child, prompts = self._children[load.users], random_prompts(workload, seed)
        child.resume()
        try:
            answer = child.ask("generate", prompts=prompts, max_tokens=load.output_tokens)
        finally:
            child.pause()
        check_answer(answer, load.requests, load.output_tokens)
        return Figures(tokens_per_s=batch_rate(workload, answer))

    def kill(self) -> None:
        """End all of them."""
        for child in self._children.values():
            child.kill()


class Server:
    """A server under a load generator.

    Args:
        name: of the contender.
        spec: what serves.
        shape: how large.
        cache: where it lies.
        client: sends the load.
    """

    def __init__(self, name: str, spec: ServerSpec, shape: Shape, cache: Cache, client: VllmClient) -> None:
        self._client = client
        self._miscount = MISCOUNT if spec.counted_anew else 0.0
        self._server = ServerProcess(name, spec, shape, cache)
        try:
            self._server.wait_until_ready()
        except BaseException:
            self._server.kill()
            raise
        self._server.pause()

    def take(self, load: Load, seed: int) -> Figures:
        """Send it the load."""
        self._server.resume()
        try:
            before_s = self._server.cpu_s()
            figures = self._client.send(self._server.url, load, seed)
            server_s = self._server.cpu_s() - before_s
        finally:
            self._server.pause()
        return figures_of(figures, load, server_s, self._miscount)

    def kill(self) -> None:
        """End it."""
        self._server.kill()


class VllmClient:
    """``vllm bench serve`` in a process of its own.

    Args:
        cache: where it lies.
    """

    def __init__(self, cache: Cache) -> None:
        self._tokenizer = str(cache.model(CLIENT_MODEL))
        command = [str(cache.bin("vllm") / "python"), str(SCRIPTS / "load_vllm.py")]
        self._child = Child(command, cache.log("load-vllm"))
        self._child.ask("prepare")

    def send(self, url: str, load: Load, seed: int) -> dict[str, Any]:
        """Send the load and return what the client says of it."""
        return self._child.ask("load", arguments=self.arguments(url, load, seed))

    def arguments(self, url: str, load: Load, seed: int) -> list[str]:
        """Return the client's command line."""
        return [
            *("--backend", "openai", "--base-url", url, "--endpoint", "/v1/completions"),
            *("--model", MODEL_NAME, "--tokenizer", self._tokenizer, "--disable-tqdm"),
            *("--dataset-name", "random", "--random-input-len", str(load.prompt_tokens)),
            *("--random-output-len", str(load.output_tokens), "--ignore-eos", "--temperature", "0"),
            *("--num-prompts", str(load.requests), "--max-concurrency", str(load.users)),
            *("--seed", str(seed), "--num-warmups", "0", "--ready-check-timeout-sec", "0"),
        ]

    def kill(self) -> None:
        """End it."""
        self._child.kill()


def figures_of(told: Mapping[str, Any], load: Load, server_s: float, miscount: float) -> Figures:
    """Return the figures of what the load generator told.

    Args:
        told: by the load generator.
        load: that it sent.
        server_s: CPU seconds of the server meanwhile.
        miscount: how far from the tokens that were asked for its count may be, of them.

    Raises:
        PeerError: if requests failed or were short: a server that answers less must not win by it.
    """
    wanted, counted = load.requests * load.output_tokens, told["total_output_tokens"]
    if told["failed"] or abs(counted - wanted) > miscount * wanted:
        raise PeerError(f"{told['failed']} requests failed, {counted} of {wanted} tokens came")
    return Figures(
        tokens_per_s=wanted / told["duration"],
        times_ms={name: told[name] for name in TIMES},
        client_cores=told["cpu_s"] / told["duration"],
        server_cores=server_s / told["duration"],
    )


def take_turns(
    takers: Mapping[str, Taker], loads: Sequence[Load], repeats: int
) -> tuple[dict[tuple[str, int], list[Figures]], dict[str, str]]:
    """Return figures by contender and users, one per round, and why some are missing; the first round is a warm-up."""
    figures: dict[tuple[str, int], list[Figures]] = {}
    failures: dict[str, str] = {}
    for round_ in range(-1, repeats):
        for load in loads:
            for name in [name for name in takers if f"{name}, {load.users} users" not in failures]:
                sent = load if round_ >= 0 else warm_up(load)
                try:
                    taken = takers[name].take(sent, seed=1000 * load.users + round_ + 1)
                except PeerError as error:
                    failures[f"{name}, {load.users} users"] = str(error)
                    continue
                if round_ >= 0:
                    figures.setdefault((name, load.users), []).append(taken)
                    note(f"{load.users} users {round_ + 1}/{repeats} {name}: {taken.tokens_per_s:.0f} tok/s")
    return figures, failures


def warm_up(load: Load) -> Load:
    """Return as many users, who ask once and for little."""
    return Load(users=load.users, requests=load.users, prompt_tokens=load.prompt_tokens, output_tokens=WARM_UP_TOKENS)
