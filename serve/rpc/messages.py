"""The classes of the protocols' messages, made of the .proto files in a pool of their own.

A program may load the same messages from another package, such as tritonclient: one pool cannot hold them twice.
"""

from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pool, message_factory

from serve.rpc.proto_files import read_proto

INFERENCE, HEALTH, REFLECTION = (
    "inference.GRPCInferenceService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
)
"""The services."""

pool: Any = descriptor_pool.DescriptorPool()
for _path in sorted(Path(__file__).parent.glob("*.proto")):
    pool.AddSerializedFile(read_proto(_path).SerializeToString())


def message(name: str) -> Any:
    """The class of a message by its full name, such as `inference.ModelInferRequest`."""
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


ModelInferRequest: Any = message("inference.ModelInferRequest")
ModelInferResponse: Any = message("inference.ModelInferResponse")
ModelStreamInferResponse: Any = message("inference.ModelStreamInferResponse")
