"""Folders of Hugging Face: the configuration names a class of transformers, the weights are .safetensors."""

import json
import re
from pathlib import Path

from bring.verdict import safetensors
from bring.verdict.archives import MEMBER_LIMIT
from bring.verdict.findings import Examination, Finding, few, leaves

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
CLASS = re.compile(r"[A-Z]\w*")


def folder(path: Path, max_bytes: int) -> Examination:
    """Judge a folder with config.json and model.safetensors. Raises ValueError where one is damaged."""
    if (size := (path / CONFIG).stat().st_size) > MEMBER_LIMIT:
        raise ValueError(f"{CONFIG} has {size} bytes")
    config = json.loads((path / CONFIG).read_bytes())
    names = config.get("architectures") or []
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{CONFIG} names no class of a network (architectures)")
    findings = []
    if asks := [key for key in ("auto_map", "custom_pipelines", "trust_remote_code") if config.get(key)]:
        findings.append(
            Finding(
                f"{CONFIG} asks for code beside it or from the internet ({few(asks)}), which is never run. Where the "
                "network runs, export it: "
                '`torch.export.save(torch.export.export(model.eval(), (example,)), "model.pt2")`.',
                False,
            )
        )
    if odd := [name for name in names if not CLASS.fullmatch(name)]:
        findings.append(Finding(f"its class {few(odd)} is not the name of a class", False))
    files = [path / CONFIG, path / WEIGHTS]
    if linked := [file.name for file in files if leaves(path, file.name)]:
        findings.append(Finding(f"its files {few(linked)} are links that leave its folder", False))
        return Examination("huggingface", findings, (path / CONFIG,))
    safetensors.file(path / WEIGHTS, max_bytes)
    return Examination("huggingface", findings, tuple(files))
