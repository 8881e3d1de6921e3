"""The calls of the protocol over gRPC. Each returns its answer, or raises one of the errors that HTTP answers, too."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from google.protobuf.json_format import ParseDict

from contract.errors import BodyTooLarge, InputError, RosettaError, UnknownModel
from serve.callers import REQUESTS, ROWS
from serve.catalog import ServedModel
from serve.control import refuse_files
from serve.dataplane import DataPlane
from serve.pipeline import LARGE
from serve.protocol import MAX_BATCH, oip
from serve.replies import status_code
from serve.rpc import tensors
from serve.rpc.messages import (
    HEALTH,
    INFERENCE,
    REFLECTION,
    ModelInferRequest,
    ModelStreamInferResponse,
    message,
    pool,
)
from serve.rpc.wire import split
from serve.views import index_entries, server_metadata

SERVING, NOT_SERVING = 1, 2

MAX_MESSAGE = 65_536
"""Bytes of a message other than for tensors: names, and some parameters. It is read while all else waits."""

UNKNOWN = 5
"""gRPC's code for what is not there, in answers of the reflection."""

log = logging.getLogger(__name__)

Call = Callable[[Any], Mapping[str, Any]]
"""A request's message -> the fields of its answer."""


class Service:
    """The calls over one data plane."""

    def __init__(self, plane: DataPlane) -> None:
        self._plane = plane
        self.calls: Mapping[str, tuple[Call, Any, Any]] = {
            f"/{service}/{name}": (call, message(f"{package}.{request}"), message(f"{package}.{answer}"))
            for service, name, call, request, answer in self._described()
            for package in [service.rpartition(".")[0]]
        }
        """By their paths: what answers, and the classes of its messages."""

    def _described(self) -> list[tuple[str, str, Call, str, str]]:
        named: dict[str, Call] = {
            "ServerLive": lambda _: {"live": True},
            "ServerReady": lambda _: {"ready": self._plane.ready},
            "ModelReady": lambda message: {"ready": self._model(message.name, message.version).ready},
            "ServerMetadata": lambda _: server_metadata(self._plane),
            "ModelMetadata": self._metadata,
            "ModelConfig": self._config,
            "ModelStatistics": self._statistics,
            "RepositoryModelLoad": lambda message: self._control("load", message),
            "RepositoryModelUnload": lambda message: self._control("unload", message),
            "RepositoryIndex": lambda message: {"models": index_entries(self._plane, message.ready)},
        }
        calls = [(INFERENCE, name, call, f"{name}Request", f"{name}Response") for name, call in named.items()]
        return [*calls, (HEALTH, "Check", self._check, "HealthCheckRequest", "HealthCheckResponse")]

    def read(self, path: str, body: bytes) -> Any:
        """The message of a call other than for tensors. Raises DecodeError or BodyTooLarge."""
        _, message, _ = self.calls[path]
        return _read_small(message, body)

    def describe(self, path: str, message: Any) -> bytes:
        """Answer a call other than for tensors."""
        call, _, answered = self.calls[path]
        answer: bytes = ParseDict(call(message), answered(), ignore_unknown_fields=True).SerializeToString()
        return answer

    def _model(self, name: str, version: str) -> ServedModel:
        return self._plane.catalog.version(name, version or None)

    def _metadata(self, message: Any) -> Mapping[str, Any]:
        model = self._model(message.name, message.version)
        versions = [each.version for each in self._plane.catalog.versions(model.name)]
        return oip.model_metadata(model.described, model.runtime.platform, versions)

    def _config(self, message: Any) -> Mapping[str, Any]:
        model = self._model(message.name, message.version)
        return {"config": oip.model_config(model.described, model.runtime.platform, MAX_BATCH)}

    def _statistics(self, message: Any) -> Mapping[str, Any]:
        models = [self._model(message.name, message.version)] if message.name else self._plane.catalog.every_version()
        totals = self._plane.stats.total()
        return {"model_stats": [totals[model.key].to_json(model.name, model.version) for model in models]}

    def _check(self, message: Any) -> Mapping[str, Any]:
        if message.service not in ("", INFERENCE):
            raise UnknownModel(f"There is no service {message.service[:80]!r}. Ask for {INFERENCE}, or for none.")
        return {"status": SERVING if self._plane.ready else NOT_SERVING}

    def _control(self, verb: str, message: Any) -> Mapping[str, Any]:
        refuse_files(message.parameters)
        getattr(self._plane.control, verb)(message.model_name)
        return {}

    # --- Tensors

    async def receive(self, body: bytes) -> tensors.Sent:
        """A ModelInferRequest's bytes -> what is in them. Raises DecodeError or InputError."""
        fields, raw = split(body)
        parse = ModelInferRequest.FromString
        message = parse(fields) if len(fields) < LARGE else await self._in_thread(parse, fields)
        return tensors.Sent(message, fields, raw)

    async def _in_thread(self, read: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._plane.readers, read, *arguments)

    async def infer(self, sent: tensors.Sent, allows: Callable[[str], object], caller: str | None) -> bytes:
        """A ModelInferRequest -> the ModelInferResponse, as bytes.

        `allows(model)` raises for a caller who may not. A message of a stream counts as a request of its own: else a
        stream would pass by the limits.
        """
        with self._plane.callers.having(caller, REQUESTS, 1):
            return await self._infer(sent, allows, caller)

    async def _infer(self, sent: tensors.Sent, allows: Callable[[str], object], caller: str | None) -> bytes:
        allows(sent.message.model_name)
        model = self._model(sent.message.model_name, sent.message.model_version)
        start = self._plane.clock()
        try:
            model.check_runnable()
            if len(sent.fields) < LARGE:
                request = tensors.read_request(sent, model)
            else:
                request = await self._in_thread(tensors.read_request, sent, model)
            with self._plane.callers.having(caller, ROWS, model.described.rows_of(request.inputs)):
                outputs, _, _ = await self._plane.infer(model, request, start)
            answer: bytes = tensors.answer(model, request, outputs).SerializeToString()
            return answer
        except Exception as error:
            self._plane.count_failure(model, status_code(error) if isinstance(error, RosettaError) else 500, start)
            raise

    async def stream(
        self, bodies: AsyncIterator[bytes], allows: Callable[[str], object], caller: str | None
    ) -> AsyncIterator[bytes]:
        """Requests one after the other, each with its answer or the message of its error."""
        async for body in bodies:
            sent = await self.receive(body)
            try:
                answer = ModelStreamInferResponse()
                answer.infer_response.MergeFromString(await self.infer(sent, allows, caller))
            except RosettaError as error:
                answer = ModelStreamInferResponse(error_message=str(error))
                answer.infer_response.id = sent.message.id
            yield answer.SerializeToString()

    # --- Reflection

    async def reflect(self, bodies: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """What there is to call."""
        request_class, answer_class = (
            message(f"grpc.reflection.v1alpha.ServerReflection{kind}") for kind in ("Request", "Response")
        )
        async for body in bodies:
            request = _read_small(request_class, body)
            answer = answer_class(valid_host=request.host, original_request=request)
            try:
                self._describe(request, answer)
            except (KeyError, InputError) as error:
                answer.error_response.error_code, answer.error_response.error_message = UNKNOWN, str(error)
            yield answer.SerializeToString()

    def _describe(self, message: Any, answer: Any) -> None:
        kind = message.WhichOneof("message_request")
        if kind == "list_services":
            for name in (INFERENCE, HEALTH, REFLECTION):
                answer.list_services_response.service.add(name=name)
        elif kind == "file_by_filename":
            file = pool.FindFileByName(message.file_by_filename)
            answer.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)
        elif kind == "file_containing_symbol":
            file = pool.FindFileContainingSymbol(message.file_containing_symbol)
            answer.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)
        else:
            raise InputError("The reflection lists services, and gives files by their names or by what is in them.")


def _read_small(message: Any, body: bytes) -> Any:
    if len(body) > MAX_MESSAGE:
        raise BodyTooLarge(f"The message has {len(body)} bytes, expected {MAX_MESSAGE} at most: no files come with it.")
    return message.FromString(body)
