"""Core AI's programs, from their bytes: their operators, and whether they are Core AI's own.

A program holds its weights, and opens no other file.
"""

from pathlib import Path

from bring.verdict import operators
from bring.verdict.findings import Examination
from contract import coreai_program


def folder(path: Path, max_bytes: int) -> Examination:
    """Judge a `.aimodel`. Raises ValueError if it is damaged, or is of another version of the format."""
    names = coreai_program.operators((path / "main.mlirb").read_bytes())
    findings = list(operators.findings(names, "coreai", "Core AI's"))
    return Examination("coreai", findings, tuple(sorted(file for file in path.iterdir() if file.is_file())))
