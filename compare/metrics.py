"""The figures: the name of each, its title, and which direction is better.

A figure with several batch sizes is named `name@batch`.
"""

from dataclasses import dataclass

LOWER, HIGHER, NEITHER = "lower", "higher", ""


@dataclass(frozen=True)
class Metric:
    """The meaning of a figure."""

    title: str
    better: str = LOWER
    timed: bool = False
    """Whether another machine gives another value."""


METRICS = {
    # of an artifact
    "accuracy": Metric("accuracy", HIGHER),
    "accuracy_change": Metric("accuracy against the source", NEITHER),
    "agreement": Metric("same class as the source", HIGHER),
    "max_abs_diff": Metric("largest difference", NEITHER),
    "mean_abs_diff": Metric("mean difference", NEITHER),
    "cosine_distance": Metric("largest 1 - cosine", NEITHER),
    "max_kl": Metric("largest KL divergence", NEITHER),
    "disk": Metric("on disk"),
    "gzip": Metric("gzip"),
    "brotli": Metric("brotli"),
    "made": Metric("training or export", NEITHER),
    "verified": Metric("verification", NEITHER),
    # of a row
    "p50": Metric("median", timed=True),
    "p95": Metric("95th percentile", timed=True),
    "p99": Metric("99th percentile", NEITHER, timed=True),
    "throughput": Metric("throughput", HIGHER, timed=True),
    "http_p50": Metric("median over HTTP", timed=True),
    "http_p95": Metric("95th percentile over HTTP", timed=True),
    "http_p99": Metric("99th percentile over HTTP", NEITHER, timed=True),
    "http_throughput": Metric("throughput over HTTP", HIGHER, timed=True),
    "http_overhead": Metric("overhead of HTTP", timed=True),
    "import": Metric("import", timed=True),
    "load": Metric("load", timed=True),
    "first_call": Metric("first call", timed=True),
    "cold_start": Metric("cold start", timed=True),
    "memory": Metric("memory", timed=True),
    "service_memory": Metric("memory of the service", timed=True),
    "installed": Metric("runtime's packages"),
    "image": Metric("image"),
    "ship": Metric("artifact and runtime"),
    "page": Metric("page until its rows are known", timed=True),
    "page_download": Metric("page's own download"),
    "first_answer": Metric("first answer", timed=True),
    "runtime_download": Metric("runtime's download"),
    "model_download": Metric("artifact's download"),
    "download": Metric("download"),
    "difference": Metric("difference from the server's answers", NEITHER),
    "clock": Metric("step of the clock", NEITHER),
    "per_sample": Metric("calls timed together", NEITHER),
}


def metric(name: str) -> Metric:
    """The meaning of `p50@64` or `p50`. Raises KeyError for an unknown name."""
    return METRICS[name.partition("@")[0]]


def title(name: str) -> str:
    """A figure's title for people: `median of 64 pictures`."""
    batch = name.partition("@")[2]
    many = "1 picture" if batch == "1" else f"{batch} pictures"
    return f"{metric(name).title} of {many}" if batch else metric(name).title
