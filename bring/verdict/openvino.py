"""OpenVINO's files, from the bytes of the graph, `model.xml`: its operators, and whether they are OpenVINO's own.

OpenVINO itself checks that the weights lie within `model.bin`, and it reads no other file.
"""

import re
from pathlib import Path
from typing import Any
from xml.parsers import expat

from bring.verdict import operators
from bring.verdict.findings import Examination

BEGINNING = re.compile(rb'<\?xml version="1\.0"\?>\s*<net\s')
"""Of a file that OpenVINO wrote: no other encoding than UTF-8, which two parsers may read differently."""
OPSET = re.compile(r"opset\d+")


def file(path: Path, max_bytes: int) -> Examination:
    """Judge a graph of OpenVINO. Raises ValueError or expat.ExpatError if it is damaged."""
    data = path.read_bytes()
    if not BEGINNING.match(data):
        raise ValueError("it does not begin as OpenVINO writes it")
    names: dict[str, None] = {}

    def began(tag: str, attributes: dict[str, str]) -> None:
        if tag == "layer":
            type, version = attributes.get("type", ""), attributes.get("version", "")
            names[type if OPSET.fullmatch(version) else f"{version}::{type}"] = None

    parser: Any = expat.ParserCreate("utf-8")
    parser.StartElementHandler = began
    parser.Parse(data, True)  # it begins with its one element: there is no place for a document type, and its entities
    if not names:
        raise ValueError("it has no layers")
    findings = list(operators.findings(names, "openvino", "OpenVINO's"))
    return Examination("openvino", findings, (path,))
