"""A TF Lite file as objects that can be changed, and back."""

from typing import Any

import flatbuffers
import numpy as np
from tensorflow.lite.python import schema_py_generated as schema

ALIGNMENT = 16
"""Of constants in the file, in bytes: kernels may count on it."""


def unpacked(content: bytes) -> Any:
    """The file's model; None where its constants lie behind the model, as in a file of more than 2 GB."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    return None if any(buffer.offset > 1 for buffer in model.buffers) else model


def packed(model: Any) -> bytes:
    """The file of what `unpacked` returned, which is of no use afterwards."""
    model.buffers = [_Aligned(buffer.data) for buffer in model.buffers]
    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


class _Aligned(schema.BufferT):  # type: ignore[misc]
    """A buffer whose constant is aligned: the generated code aligns it as single bytes."""

    def __init__(self, data: Any) -> None:
        super().__init__()
        self.bytes = None if data is None else np.asarray(data, np.uint8).tobytes()

    def Pack(self, builder: Any) -> Any:
        data = None
        if self.bytes is not None:
            builder.StartVector(1, len(self.bytes), ALIGNMENT)
            builder.head -= len(self.bytes)
            builder.Bytes[builder.Head() : builder.Head() + len(self.bytes)] = self.bytes
            data = builder.EndVector()
        schema.BufferStart(builder)
        if data is not None:
            schema.BufferAddData(builder, data)
        return schema.BufferEnd(builder)
