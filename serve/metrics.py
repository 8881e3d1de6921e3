"""Prometheus metrics, over the sum of all workers."""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from serve.catalog import Catalog
from serve.gauges import Numbers
from serve.stats import BOUNDS, Duration, ModelStats

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


GAUGES = {
    "connections": "Open connections",
    "requests_in_flight": "Requests under way",
    "queue_rows": "Rows that wait for a model",
    "held_bytes": "Bytes of bodies and decoded pictures of the requests under way",
    "memory_bytes": "Memory of the workers, without processes that run models apart",
}


class ModelCollector(Collector):
    """The statistics of every model in Prometheus' types."""

    def __init__(self, catalog: Catalog, totals: Mapping[str, ModelStats], gauges: Numbers) -> None:
        self._catalog = catalog
        self._totals = totals
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        yield self._ready()
        yield self._requests()
        yield self._counter("rosetta_rows", "Rows answered", lambda stats: stats.rows)
        yield self._counter("rosetta_queue_seconds", "Seconds in the queue", lambda stats: stats.queue.seconds)
        yield self._counter(
            "rosetta_compute_seconds",
            "Seconds in the runtime",
            lambda stats: sum(call.seconds for call in stats.calls.values()),
        )
        yield self._durations()
        yield self._batches()
        yield from self._now()

    def _now(self) -> Iterable[Metric]:
        for name, text in GAUGES.items():
            if name == "queue_rows":
                family = GaugeMetricFamily(f"rosetta_{name}", text, labels=["model"])
                for model in self._catalog.every_version():
                    family.add_metric([model.key], self._gauges.get(name, {}).get(model.key, 0))
            else:
                family = GaugeMetricFamily(f"rosetta_{name}", text, self._gauges.get(name, 0))
            yield family

    def _ready(self) -> Metric:
        family = GaugeMetricFamily("rosetta_model_ready", "1 if the model can be run", labels=["model"])
        for model in self._catalog.every_version():
            family.add_metric([model.key], float(model.ready))
        return family

    def _requests(self) -> Metric:
        family = CounterMetricFamily("rosetta_requests", "Requests by HTTP status", labels=["model", "code"])
        for name, stats in self._totals.items():
            for code, count in sorted(stats.codes.items()):
                family.add_metric([name, str(code)], count)
        return family

    def _counter(self, name: str, text: str, value: Callable[[ModelStats], float]) -> Metric:
        family = CounterMetricFamily(name, text, labels=["model"])
        for model, stats in self._totals.items():
            family.add_metric([model], value(stats))
        return family

    def _durations(self) -> Metric:
        family = HistogramMetricFamily("rosetta_request_seconds", "Seconds from request to answer", labels=["model"])
        for name, stats in self._totals.items():
            buckets = list(zip([*map(str, BOUNDS), "+Inf"], _running_sums(stats.buckets), strict=True))
            family.add_metric([name], buckets, stats.success.seconds + stats.fail.seconds)
        return family

    def _batches(self) -> Metric:
        family = HistogramMetricFamily("rosetta_batch_rows", "Rows in one call of the runtime", labels=["model"])
        bounds = [2**power for power in range(13)]
        for name, stats in self._totals.items():
            counts = [_calls_up_to(stats.calls, bound) for bound in bounds]
            total = sum(call.count for call in stats.calls.values())
            buckets = list(zip([*map(str, bounds), "+Inf"], [*counts, total], strict=True))
            family.add_metric([name], buckets, stats.call_rows)
        return family


def _running_sums(counts: Iterable[int]) -> Iterable[int]:
    total = 0
    for count in counts:
        total += count
        yield total


def _calls_up_to(calls: Mapping[int, Duration], bound: int) -> int:
    return sum(call.count for size, call in calls.items() if size <= bound)


def exposition(catalog: Catalog, totals: Mapping[str, ModelStats], gauges: Numbers) -> bytes:
    """The text that Prometheus reads."""
    registry = CollectorRegistry()
    registry.register(ModelCollector(catalog, totals, gauges))
    return generate_latest(registry)
