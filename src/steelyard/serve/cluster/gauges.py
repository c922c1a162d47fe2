"""What Prometheus is told of replicas: :class:`ReplicaGauges`.

Under names of their own, for a total and its parts under one name would be counted twice by whoever adds them up. A
replica is called by its place, which stays the same when another is put there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from steelyard.serve.cluster.llm import FleetLLM
from steelyard.serve.pool import ServedModel

_LABELS = ["model_name", "replica"]


@final
class ReplicaGauges(Collector):
    """Asks the fleets among ``models``.

    Args:
        prefix: what names begin with.
        models: all that are served.
    """

    def __init__(self, prefix: str, models: Sequence[ServedModel]) -> None:
        self._prefix, self._models = prefix, models

    def collect(self) -> Iterable[Metric]:
        """Return what is known now."""
        up = self._gauge("replica_up", "1 if requests may be sent there.")
        running = self._gauge("replica_requests_running", "Sequences that hold a seat there.")
        waiting = self._gauge("replica_requests_waiting", "Sequences that wait for one there.")
        usage = self._gauge("replica_kv_cache_usage_perc", "Share of its KV blocks in use, 0 to 1.")
        deaths = CounterMetricFamily(self._prefix + "replica_deaths", "Replicas lost in this place.", labels=_LABELS)
        retries = self._total("requests_retried", "Requests sent again before anything was streamed.")
        continuations = self._total("requests_continued", "Answers that went on elsewhere.")
        for model, llm in self._fleets():
            for place, num_deaths in enumerate(llm.crew.num_deaths):
                label, member = [model.name, str(place)], llm.crew.members.get(place)
                deaths.add_metric(label, num_deaths)
                up.add_metric(label, float(member is not None))
                if member is None:
                    continue
                status = member.remote.status
                running.add_metric(label, status.num_running)
                waiting.add_metric(label, sum(status.waiting.values()))
                usage.add_metric(label, status.kv.num_referenced_blocks / max(1, status.kv.num_blocks))
            dispatcher = llm.start().dispatcher
            retries.add_metric([model.name], dispatcher.num_retries)
            continuations.add_metric([model.name], dispatcher.num_continuations)
        return [up, running, waiting, usage, deaths, retries, continuations]

    def _fleets(self) -> Iterable[tuple[ServedModel, FleetLLM]]:
        return ((model, model.llm) for model in self._models if isinstance(model.llm, FleetLLM))

    def _gauge(self, name: str, meaning: str) -> GaugeMetricFamily:
        return GaugeMetricFamily(self._prefix + name, meaning, labels=_LABELS)

    def _total(self, name: str, meaning: str) -> CounterMetricFamily:
        return CounterMetricFamily(self._prefix + name, meaning, labels=_LABELS[:1])
