"""What the server keeps of its engine's throughput when the load costs next to nothing: wrk, beside the engine alone.

vLLM's load generator takes CPU time from the cores that the server computes on. wrk, in C, takes little. On either side
users ask again as soon as they are answered, with new random prompts, for answers of unlike lengths, so that they do
not march in step; once all of them have begun, what the engine samples within a while is counted.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path
from time import sleep

from peerbench.cache import Cache
from peerbench.child import Child, PeerError
from peerbench.contenders import OURS
from peerbench.measure import note

from servebench.http_layer import check_wrk
from servebench.load import Figures, Load
from servebench.servers import MODEL_NAME, SERVERS, ServerProcess, Shape, needed_program
from servebench.steady_engine import least, most
from steelyard.core.clock import wall_s

WHILE_S = 10
WARM_S = 8  # until all users are in the middle of an answer
SPARE_S = 1


def measure_steady(cache: Cache, threads: int, load: Load, repeats: int) -> list[tuple[Figures, Figures]]:
    """Return (server, engine alone) of each round; one more before them is not counted.

    Raises:
        PeerError: if wrk is missing, or a request failed.
    """
    command = [sys.executable, str(Path(__file__).parent / "steady_engine.py")]
    numbers = (threads, load.users, load.prompt_tokens, load.output_tokens)
    engine = Child([*command, *map(str, numbers)], cache.log("steady-engine"))
    shape = Shape(threads=threads, seats=load.users, context=0)
    server = ServerProcess("steelyard, steady", SERVERS[OURS], shape, cache)
    rounds = []
    try:
        server.wait_until_ready()
        server.pause()
        for round_ in range(-1, repeats):
            seconds = WHILE_S if round_ >= 0 else WARM_S
            engine_alone = alone(engine, seconds)
            pair = (served(server, load, seconds, seed=round_ + 2), engine_alone)
            if round_ >= 0:
                rounds.append(pair)
                note(f"steady {round_ + 1}/{repeats}: {pair[0].tokens_per_s:.0f} of {pair[1].tokens_per_s:.0f} tok/s")
    finally:
        engine.kill()
        server.kill()
    return rounds


def alone(engine: Child, seconds: int) -> Figures:
    """Let the engine go on for a while."""
    engine.resume()
    try:
        engine.ask("rate", seconds=WARM_S)
        return Figures(tokens_per_s=engine.ask("rate", seconds=seconds)["tokens_per_s"])
    finally:
        engine.pause()


def served(server: ServerProcess, load: Load, seconds: int, seed: int) -> Figures:
    """Send a server that stands still load by wrk; it stands still again in the end.

    Raises:
        PeerError: if wrk is missing, or a request failed.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(lua(load, seed))
        script.flush()
        options = ("-t1", f"-c{load.users}", f"-d{WARM_S + seconds + SPARE_S}s", "--timeout", "60s", "-s", script.name)
        server.resume()
        wrk = subprocess.Popen([needed_program("wrk"), *options, server.url], stdout=subprocess.PIPE, text=True)
        with wrk:
            sleep(WARM_S)
            before, before_s, start_s = num_sampled(server.url), server.cpu_s(), wall_s()
            sleep(seconds)
            count, cpu_s, took_s = num_sampled(server.url) - before, server.cpu_s() - before_s, wall_s() - start_s
            told, _ = wrk.communicate()
        server.pause()
    check_wrk(told)
    return Figures(tokens_per_s=count / took_s, server_cores=cpu_s / took_s)


def lua(load: Load, seed: int) -> str:
    """Return wrk's script: a new prompt for each request."""
    return f"""
math.randomseed({seed})
wrk.headers["Content-Type"] = "application/json"
request = function()
  local ids = {{}}
  for i = 1, {load.prompt_tokens} do ids[i] = math.random(1000, 40000) end
  local body = '{{"model":"{MODEL_NAME}","stream":true,"ignore_eos":true,"temperature":0,'
  body = body .. '"max_tokens":' .. math.random({least(load.output_tokens)}, {most(load.output_tokens)})
  return wrk.format("POST", "/v1/completions", nil, body .. ',"prompt":[' .. table.concat(ids, ",") .. ']}}')
end
"""


def num_sampled(url: str) -> float:
    """Return the tokens that the server's engine has sampled so far, by its metrics.

    Raises:
        PeerError: if they do not say.
    """
    with urllib.request.urlopen(url + "/metrics", timeout=10) as answer:
        found = re.search(r"^vllm:generation_tokens_total\{.*\} (\S+)$", answer.read().decode(), re.MULTILINE)
    if found is None:
        raise PeerError("the metrics tell no generation_tokens_total")
    return float(found[1])
