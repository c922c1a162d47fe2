"""Prometheus metrics under the names that vLLM's dashboards know; the prefix can be another.

Gauges are read from the engines when somebody asks. Histograms and counters are fed by requests as they end, and by
the engines' steps.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client import Counter as PrometheusCounter
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from steelyard.core.request import FinishReason, RequestOutput
from steelyard.engine.view import StepRecord
from steelyard.serve.batch.types import Answer, Batch
from steelyard.serve.cluster.gauges import ReplicaGauges
from steelyard.serve.llm import ServedEngine, ServedLLM
from steelyard.serve.pool import ServedModel

_MODEL = "model_name"
_FIRST_TOKEN_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160)
_TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 10)
_REQUEST_S = (0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960)
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
_FINISHED = {FinishReason.CANCELLED: "abort", FinishReason.DEADLINE: "deadline"}


class Metrics:
    """All metrics of one server, in a registry of their own.

    Args:
        prefix: what names begin with.
        models: whose engines are asked.
    """

    def __init__(self, prefix: str, models: Sequence[ServedModel]) -> None:
        self._registry = registry = CollectorRegistry()
        registry.register(_Gauges(prefix, models))
        registry.register(ReplicaGauges(prefix, models))

        def counter(name: str, meaning: str, *labels: str) -> PrometheusCounter:
            return PrometheusCounter(prefix + name, meaning, (_MODEL, *labels), registry=registry)

        def histogram(name: str, meaning: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(prefix + name, meaning, (_MODEL,), buckets=buckets, registry=registry)

        self._prompt_tokens = counter("prompt_tokens", "Tokens of prompts.")
        self._generation_tokens = counter("generation_tokens", "Tokens generated.")
        self._preemptions = counter("num_preemptions", "Sequences that lost their KV blocks.")
        self._success = counter("request_success", "Prompts that have ended.", "finished_reason")
        self._queue_s = histogram("request_queue_time_seconds", "Time until first scheduled.", _REQUEST_S)
        self._prefill_s = histogram("request_prefill_time_seconds", "From first scheduled to first token.", _REQUEST_S)
        self._decode_s = histogram("request_decode_time_seconds", "From first token to last.", _REQUEST_S)
        self._e2e_s = histogram("e2e_request_latency_seconds", "From arrival to last token.", _REQUEST_S)
        self._ttft_s = histogram("time_to_first_token_seconds", "Time to first token.", _FIRST_TOKEN_S)
        # under vLLM's older name, too: dashboards ask for either
        names = (prefix + "inter_token_latency_seconds", prefix + "time_per_output_token_seconds")
        self._gaps_s = TallyHistogram(names, "Time between a sequence's tokens.", _TOKEN_S)
        registry.register(self._gaps_s)
        self._tpot_s = histogram("request_time_per_output_token_seconds", "The same, mean of a request.", _TOKEN_S)
        self._request_prompt = histogram("request_prompt_tokens", "Tokens of a prompt.", _TOKENS)
        self._request_generation = histogram("request_generation_tokens", "Tokens of a prompt's completions.", _TOKENS)
        self._iteration = histogram("iteration_tokens_total", "Tokens computed in a step.", _TOKENS)
        self._switch_s = histogram("model_switch_seconds", "Time to load a model, others put away.", _REQUEST_S)
        self._refused = PrometheusCounter(
            prefix + "requests_refused", "Requests answered with 429 by a limit.", ("key", "limit"), registry=registry
        )
        self._lines = PrometheusCounter(
            prefix + "batch_lines", "Lines of batches that have ended, by whose they are.", ("key", "state"),
            registry=registry,
        )  # fmt: skip
        self._key_queue_s = Histogram(
            prefix + "key_queue_time_seconds",
            "Time until first scheduled, by key.",
            ("key",),
            buckets=_REQUEST_S,
            registry=registry,
        )
        self._http = PrometheusCounter(prefix + "http_requests", "Answers.", ("path", "status"), registry=registry)

    def render(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def count_answer(self, path: str, status: int) -> None:
        """Count an HTTP answer."""
        self._http.labels(path, str(status)).inc()

    def count_refusal(self, key: str, limit: str) -> None:
        """Count a request that a limit turned away."""
        self._refused.labels(key, limit).inc()

    def count_lines(self, batch: Batch, answers: Sequence[Answer]) -> None:
        """Count lines of a batch that have been answered and kept."""
        for answer in answers:
            self._lines.labels(batch.owner, answer.state.value).inc()

    def watch(self, model: ServedModel) -> None:
        """Count the steps of a model that has just been loaded."""
        assert model.llm is not None
        self._switch_s.labels(model.name).observe(model.switch_s)
        name, times = model.name, TokenTimes()
        generated, preempted = self._generation_tokens.labels(name), self._preemptions.labels(name)
        iteration = self._iteration.labels(name)

        def observe(record: StepRecord) -> None:
            generated.inc(len(record.sampled))
            preempted.inc(len(record.schedule.preempt))
            iteration.observe(sum(num_tokens for _, _, num_tokens in record.works))
            for seconds, count in times.gaps_s(record).items():
                self._gaps_s.add(name, seconds, count)

        model.llm.start().add_observer(observe)

    def count_output(self, model: str, key: str, output: RequestOutput) -> None:
        """Count a prompt of a key's whose completions have ended, or whose client has gone."""
        num_tokens = sum(len(completion.token_ids) for completion in output.outputs)
        for completion in output.outputs:
            reason = completion.finish_reason or FinishReason.CANCELLED
            self._success.labels(model, _FINISHED.get(reason, reason.value)).inc()
        self._prompt_tokens.labels(model).inc(len(output.prompt_token_ids))
        self._request_prompt.labels(model).observe(len(output.prompt_token_ids))
        self._request_generation.labels(model).observe(num_tokens)
        times = output.times
        if times.first_scheduled_s is not None:
            self._queue_s.labels(model).observe(times.first_scheduled_s - times.arrival_s)
            self._key_queue_s.labels(key).observe(times.first_scheduled_s - times.arrival_s)
        if times.first_scheduled_s is None or times.first_token_s is None or times.last_token_s is None:
            return
        self._ttft_s.labels(model).observe(times.first_token_s - times.arrival_s)
        self._prefill_s.labels(model).observe(times.first_token_s - times.first_scheduled_s)
        decode_s = times.last_token_s - times.first_token_s
        self._decode_s.labels(model).observe(decode_s)
        self._e2e_s.labels(model).observe(times.last_token_s - times.arrival_s)
        longest = max(len(completion.token_ids) for completion in output.outputs)
        if longest > 1:
            self._tpot_s.labels(model).observe(decode_s / (longest - 1))


class TokenTimes:
    """When each sequence got its latest token, from the records of an engine's steps."""

    def __init__(self) -> None:
        self._latest_s: dict[int, float] = {}

    def gaps_s(self, record: StepRecord) -> Counter[float]:
        """Return the seconds between the tokens of this step and those before them, and how often each came."""
        end_s, latest_s = record.end_s, self._latest_s
        gaps = Counter(end_s - latest_s[one] for one in record.sampled if one in latest_s)
        latest_s.update(dict.fromkeys(record.sampled, end_s))
        if len(latest_s) > 2 * (record.num_running + record.num_waiting) + 64:
            self._forget_the_oldest(record.num_running + record.num_waiting)
        return gaps

    def _forget_the_oldest(self, num_kept: int) -> None:
        """Forget sequences that ended: those that go on have had tokens later."""
        newest = sorted(self._latest_s, key=self._latest_s.__getitem__, reverse=True)[:num_kept]
        self._latest_s = {one: self._latest_s[one] for one in newest}


class TallyHistogram(Collector):
    """A histogram that takes equal values together: sequences of one step have the same gap, and are many.

    Args:
        names: it is told under each of them.
        meaning: for people.
        bounds: of the buckets, rising.
    """

    def __init__(self, names: Sequence[str], meaning: str, bounds: Sequence[float]) -> None:
        self._names, self._meaning, self._bounds = names, meaning, bounds
        self._counts: dict[str, list[int]] = {}
        self._sums: dict[str, float] = {}

    def add(self, model: str, value: float, count: int) -> None:
        """Count ``value`` so many times."""
        counts = self._counts.setdefault(model, [0] * (len(self._bounds) + 1))
        counts[bisect_left(self._bounds, value)] += count
        self._sums[model] = self._sums.get(model, 0.0) + value * count

    def collect(self) -> Iterable[Metric]:
        """Return the histogram, once per name."""
        for name in self._names:
            family = HistogramMetricFamily(name, self._meaning, labels=[_MODEL])
            for model, counts in self._counts.items():
                limits = [*(str(float(bound)) for bound in self._bounds), "+Inf"]
                buckets = list(zip(limits, accumulate(counts), strict=True))
                family.add_metric([model], buckets, self._sums[model])
            yield family


class _Gauges(Collector):
    """What engines know of themselves."""

    def __init__(self, prefix: str, models: Sequence[ServedModel]) -> None:
        self._prefix, self._models = prefix, models

    def collect(self) -> Iterable[Metric]:
        """Ask every loaded model."""
        running = self._gauge("num_requests_running", "Sequences that hold a seat.")
        waiting = self._gauge("num_requests_waiting", "Sequences that wait for one.")
        usage = self._gauge("kv_cache_usage_perc", "Share of the KV blocks in use, 0 to 1.")
        older = self._gauge("gpu_cache_usage_perc", "The same, under vLLM's older name.")
        queries = self._counter("prefix_cache_queries", "Tokens looked for in the prefix cache.")
        hits = self._counter("prefix_cache_hits", "Tokens found there.")
        loaded = self._gauge("model_loaded", "1 if the model is in memory.")
        held = self._gauge("model_memory_bytes", "What its weights and KV cache take.")
        leases = self._gauge("model_requests", "HTTP requests that use it.")
        by_key = GaugeMetricFamily(self._prefix + "key_requests_waiting", "The same, by key.", labels=[_MODEL, "key"])
        for model in self._models:
            label = [model.name]
            loaded.add_metric(label, float(model.llm is not None))
            held.add_metric(label, model.held_bytes)
            leases.add_metric(label, model.num_leases)
            engine = _engine(model.llm)
            if engine is None:
                continue
            kv = engine.kv_usage
            running.add_metric(label, engine.num_running)
            waiting.add_metric(label, engine.num_waiting)
            for key, num_waiting in engine.waiting_tenants().items():
                by_key.add_metric([*label, key], num_waiting)
            for family in (usage, older):
                family.add_metric(label, kv.num_referenced_blocks / kv.num_blocks)
            queries.add_metric(label, kv.num_hit_tokens + kv.num_miss_tokens)
            hits.add_metric(label, kv.num_hit_tokens)
        return [running, waiting, by_key, usage, older, queries, hits, loaded, held, leases]

    def _gauge(self, name: str, meaning: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(self._prefix + name, meaning, labels=[_MODEL])

    def _counter(self, name: str, meaning: str) -> CounterMetricFamily:
        return CounterMetricFamily(self._prefix + name, meaning, labels=[_MODEL])


def _engine(llm: ServedLLM | None) -> ServedEngine | None:
    return None if llm is None else llm.start()
