"""The figures: the name of each, its title, and which direction is better.

A figure with several batch sizes is named `name@batch`.
"""

from dataclasses import dataclass

LOWER, HIGHER, NEITHER = "lower", "higher", ""
COMPUTE, SYSTEM, START = "compute", "system", "start"
"""The kinds of work of compare/pace.py."""


@dataclass(frozen=True)
class Metric:
    """The meaning of a figure."""

    title: str
    better: str = LOWER
    timed: bool = False
    """Whether another machine gives another value."""
    pace: str = ""
    """The kind of work that takes longer when this does, because the machine is slow; empty if none does."""
    reach: float = 0.0
    """The share by which two runs differ even where the rounds of each do not: tests/recorded_repeats.json shows it."""


METRICS = {
    # of an artifact
    "accuracy": Metric("accuracy", HIGHER),
    "accuracy_change": Metric("accuracy against the source", NEITHER),
    "agreement": Metric("same class as the source", HIGHER),
    "kept": Metric("kept of the source's accuracy", HIGHER),
    "points_lost": Metric("points of accuracy lost", NEITHER),
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
    "time_beside_float32": Metric("time as a multiple of float32's", NEITHER, timed=True),
    "size_beside_float32": Metric("size as a multiple of float32's", NEITHER),
    "p50": Metric("median", timed=True, pace=COMPUTE, reach=0.05),
    "p95": Metric("95th percentile", timed=True, pace=COMPUTE, reach=0.3),
    "p99": Metric("99th percentile", NEITHER, timed=True, pace=COMPUTE, reach=0.3),
    "throughput": Metric("throughput", HIGHER, timed=True, pace=COMPUTE, reach=0.45),
    "http_p50": Metric("median over HTTP", timed=True, pace=SYSTEM, reach=0.05),
    "http_p95": Metric("95th percentile over HTTP", timed=True, pace=SYSTEM, reach=0.1),
    "http_p99": Metric("99th percentile over HTTP", NEITHER, timed=True, pace=SYSTEM, reach=0.1),
    "http_throughput": Metric("throughput over HTTP", HIGHER, timed=True, pace=SYSTEM, reach=0.1),
    "json_p50": Metric("median over HTTP as JSON", timed=True, pace=SYSTEM, reach=0.05),
    "png_p50": Metric("median over HTTP as a PNG file", timed=True, pace=SYSTEM, reach=0.05),
    "jpeg_p50": Metric("median over HTTP as a JPEG file", timed=True, pace=SYSTEM, reach=0.05),
    "http_overhead": Metric("overhead of HTTP", timed=True, pace=SYSTEM, reach=0.05),
    "import": Metric("import", timed=True, pace=START, reach=0.6),
    "load": Metric("load", timed=True, pace=START, reach=0.6),
    "first_call": Metric("first call", timed=True, pace=START, reach=0.5),
    "cold_start": Metric("cold start", timed=True, pace=START, reach=0.45),
    "memory": Metric("memory", timed=True, reach=0.02),
    "service_memory": Metric("memory of the service", timed=True, reach=0.02),
    "installed": Metric("runtime's packages"),
    "image": Metric("image"),
    "ship": Metric("artifact and runtime"),
    "page": Metric("page until its rows are known", timed=True, pace=COMPUTE, reach=0.05),
    "page_download": Metric("page's own download"),
    "first_answer": Metric("first answer", timed=True, pace=COMPUTE, reach=0.1),
    "runtime_download": Metric("runtime's download"),
    "model_download": Metric("artifact's download"),
    "download": Metric("download"),
    "browser_agreement": Metric("same class in the browser as on the server", HIGHER),
    "browser_accuracy": Metric("accuracy in the browser", HIGHER),
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
