"""ExecuTorch's programs, from their bytes: what they call, and whether it is ExecuTorch's and XNNPACK's own.

A program is a list of calls over values whose memory is planned. It opens no file: weights are segments of its own.
"""

from pathlib import Path

from bring.verdict import operators
from bring.verdict.findings import Examination, Finding, few
from contract.executorch_program import BACKEND, calls


def file(path: Path, max_bytes: int) -> Examination:
    """Judge a `.pte`. Raises ValueError if it is damaged, or is of another version of the format."""
    program = calls(path.read_bytes())
    findings = list(operators.findings(program.operators, "executorch", "ExecuTorch's"))
    if others := [name for name in program.backends if name != BACKEND]:
        findings.append(
            Finding(
                f"it leaves parts of its graph to {few(others)}, which are not run here: only {BACKEND} is. Convert "
                "the model again with the XnnpackPartitioner.",
                False,
            )
        )
    return Examination("executorch", findings, (path,))
