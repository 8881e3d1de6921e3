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
"""What `torch.load(weights_only=True)` accepts by default: tensors, and the containers that hold them."""

TORCH_MAGIC = 0x1950A86A20F9469CFC6C
"""The first object in files of torch.save before these were zip archives."""


def foreign(stream: IO[bytes], pickles: int = 1) -> list[str]:
    """The names, `module.name`, that several pickles in a row import, except HARMLESS ones.

    A name that the pickle computes as it runs (protocol 4) always counts, as it is not known for sure. A damaged pickle
    runs up to the damage, so names before it count. Raises ValueError for a damaged one that imports nothing.
    """
    names: dict[str, None] = {}
    strings: list[str] = ["?", "?"]
    try:
        for _ in range(pickles):
            for opcode, argument, _ in pickletools.genops(stream):
                imported = str(argument)
                if opcode.name in ("GLOBAL", "INST") and not HARMLESS.fullmatch(imported):
                    names[imported.replace(" ", ".", 1)] = None
                elif opcode.name == "STACK_GLOBAL":
                    names[".".join(strings[-2:])] = None
                elif opcode.name.startswith("EXT"):
                    names[f"extension {argument}"] = None
                elif isinstance(argument, str):
                    strings = [strings[-1], argument]
    except Exception as error:  # damaged bytes make pickletools raise almost anything
        if not names:
            raise ValueError(f"a pickle is damaged or cut off: {error}") from error
    return list(names)


def is_torch(stream: IO[bytes]) -> bool:
    """Whether the first pickle of a file is TORCH_MAGIC."""
    try:
        arguments = [argument for opcode, argument, _ in pickletools.genops(stream) if opcode.name.startswith("LONG")]
    except Exception:  # damaged bytes again
        return False
    return arguments[:1] == [TORCH_MAGIC]
