"""The processor that answers were compared on: runtimes choose their kernels by its instructions."""

import platform
from pathlib import Path

INSTRUCTIONS = (
    *("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16"),
    *("asimddp", "i8mm", "bf16"),
)
"""Those that runtimes choose kernels by, as Linux names them."""


def processor_name() -> str:
    """Such as "Intel(R) Xeon(R) Processor"."""
    return _field("model name") or platform.processor() or platform.machine()


def processor() -> str:
    """Its name and its vector instructions: "Intel(R) Xeon(R) Processor (avx2 fma avx512f)"."""
    flags = set((_field("flags") or _field("Features")).split())
    return f"{processor_name()} ({' '.join(each for each in INSTRUCTIONS if each in flags)})"


def _field(name: str) -> str:
    """The first value of a field of /proc/cpuinfo; empty where there is none."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == name), "")
