"""What a pickle would import, from its opcodes alone: nothing is unpickled."""

import pickletools
import re
from typing import IO

HARMLESS = re.compile(
    r"collections (OrderedDict|Counter)"
    r"|torch (\w*Storage|Size|device|Tensor|per_\w+"
    r"|(q?u?int|b?float|complex|bits)\d+\w*|chalf|cfloat|cdouble|float|double|half|bool|int|long|short)"
    r"|torch\.storage (Typed|Untyped)Storage"
    r"|torch\._utils _rebuild_\w+|torch\._tensor _rebuild_from_type_v2"
    r"|torch\.nn\.parameter (Parameter|Buffer)|torch\.serialization _get_layout"
    r"|_codecs encode|(builtins|__builtin__) (bytearray|set|complex)"
)
"""What `torch.load(weights_only=True)` takes without being told: tensors, and the containers that they lie in."""

TORCH_MAGIC = 0x1950A86A20F9469CFC6C
"""The first object of what torch.save wrote before its files were zip archives."""


def foreign(stream: IO[bytes], pickles: int = 1) -> list[str]:
    """The names, `module.name`, that a number of pickles one after another import beyond HARMLESS.

    A name that the pickle puts together as it runs (protocol 4) always counts: it cannot be told for sure. A pickle
    runs until it breaks, so what comes before a break counts. Raises ValueError for a broken one that imports nothing.
    """
    found: dict[str, None] = {}
    strings: list[str] = ["?", "?"]
    try:
        for _ in range(pickles):
            for opcode, argument, _ in pickletools.genops(stream):
                imported = str(argument)
                if opcode.name in ("GLOBAL", "INST") and not HARMLESS.fullmatch(imported):
                    found[imported.replace(" ", ".", 1)] = None
                elif opcode.name == "STACK_GLOBAL":
                    found[".".join(strings[-2:])] = None
                elif opcode.name.startswith("EXT"):
                    found[f"extension {argument}"] = None
                elif isinstance(argument, str):
                    strings = [strings[-1], argument]
    except Exception as error:  # damaged bytes make pickletools raise almost anything
        if not found:
            raise ValueError(f"a pickle is damaged or cut off: {error}") from error
    return list(found)


def is_torch(stream: IO[bytes]) -> bool:
    """Whether the first pickle of a file is the number that torch.save began its files with."""
    try:
        arguments = [argument for opcode, argument, _ in pickletools.genops(stream) if opcode.name.startswith("LONG")]
    except Exception:  # as above
        return False
    return arguments[:1] == [TORCH_MAGIC]
