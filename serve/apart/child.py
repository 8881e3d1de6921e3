"""The process that runs one brought artifact, in a cell: judges and loads it, and answers until its input closes.

    python -m serve.apart.child FOLDER THREADS TRUSTED LANES        started by serve/apart/runtime.py

It judges the artifact itself: even the readers behind a verdict are libraries, which a file may be made to break. LANES
are three open files for each lane: to read from, to write to, and the memory. Each lane has a thread, so several calls
are under way at once. An answer repeats the number of its call.
"""

import sys
import threading
from pathlib import Path

from bring.verdict.artifact import insist_on_artifact
from contract.cell.frames import Frames
from contract.cell.tensors import Room
from contract.errors import BroughtError, InputError, RosettaError, one_line
from contract.manifest import read_manifest
from serve.runtimes import Runtime, load_runtime


def main() -> None:
    """Load, say so on the first lane, and answer on all."""
    folder, threads, trusted, *files = Path(sys.argv[1]), *map(int, sys.argv[2:])
    lanes = [
        (Frames(writing, reading), Room(memory, writes_first=False))
        for reading, writing, memory in zip(*[iter(files)] * 3, strict=True)
    ]
    first = lanes[0][0]
    try:
        manifest = read_manifest(folder)
        insist_on_artifact(folder, manifest, bool(trusted))
        runtime = load_runtime(folder, manifest, threads)
    except BroughtError as error:
        first.send({"refused": str(error)})
        return
    except RosettaError as error:
        first.send({"error": str(error)})
        return
    first.send({"title": runtime.title, "platform": runtime.platform})
    looking = threading.Lock()
    for lane in lanes[1:]:
        threading.Thread(target=answer_all, args=(runtime, looking, *lane), daemon=True).start()
    answer_all(runtime, looking, *lanes[0])


def answer_all(runtime: Runtime, looking: threading.Lock, frames: Frames, room: Room) -> None:
    """`looking` is held by the thread that waits awake: to be woken takes longer than a small model does."""
    while answer(runtime, frames, room):
        if looking.acquire(blocking=False):  # the others would take the interpreter from those who compute
            frames.look()  # whoever sends request after request sends the next one at once
            looking.release()


def answer(runtime: Runtime, frames: Frames, room: Room) -> bool:
    """Answer one frame; False where no other comes."""
    try:
        header, payload = frames.receive()
    except EOFError:
        return False
    try:
        known = "same" in header
        layout = header["same"] if known else header["layout"]
        inputs = room.take_same(layout) if known else room.take(header["tensors"], payload, layout)
        outputs = runtime.predict(inputs)
        if known and room.put_same(outputs, layout):
            frames.send_short(layout, header["call"])
        else:
            described, payloads = room.put(outputs, layout)
            frames.send({"call": header["call"], "tensors": described}, payloads)
    except InputError as error:
        frames.send({"call": header["call"], "refused": str(error)})
    except Exception as error:  # a runtime may raise anything
        frames.send({"call": header["call"], "error": one_line(error)})
    return True


if __name__ == "__main__":
    main()
