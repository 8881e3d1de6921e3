"""The process on the emulated processor: it loads one artifact after the other, and answers until its input closes.

    python -m verify.arm.child READING WRITING MEMORY        started by verify/arm/emulation.py

A frame with a folder loads the artifact there; any other one is a call of the artifact that was loaded last.
"""

import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from contract.cell.frames import Frames, Payload
from contract.cell.tensors import Room
from contract.errors import one_line
from contract.manifest import read_manifest, verify_files
from serve.runtimes import Runtime, load_runtime


def main() -> None:
    """Say what machine this is, then answer. The three arguments are numbers of open files."""
    reading, writing, memory = map(int, sys.argv[1:])
    frames, room = Frames(writing, reading), Room(memory, writes_first=False)
    frames.send({"machine": platform.machine()})
    runtime: Runtime | None = None
    while True:
        try:
            header, payload = frames.receive()
        except EOFError:
            return
        try:
            if "folder" in header:
                runtime = loaded(Path(header["folder"]))
                frames.send({"title": runtime.title})
            elif runtime is not None:
                answer(runtime, frames, room, header, payload)
        except Exception as error:  # a runtime may raise anything
            frames.send({"error": one_line(error)})


def loaded(folder: Path) -> Runtime:
    """The runtime of the artifact in this folder. Raises what reading and loading it raise."""
    manifest = read_manifest(folder)
    verify_files(folder, manifest)
    return load_runtime(folder, manifest)


def answer(runtime: Runtime, frames: Frames, room: Room, header: Mapping[str, Any], payload: Payload) -> None:
    """Answer one call. Raises what the runtime raises."""
    outputs = runtime.predict(room.take(header["tensors"], payload, 0))
    described, payloads = room.put(outputs, 0)
    frames.send({"tensors": described}, payloads)


if __name__ == "__main__":
    main()
