"""TensorFlow graphs: a SavedModel's signature, and a Keras model traced as a function."""

import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf
from numpy.typing import NDArray

# The only way to have a signature's inner functions inlined while its variables stay variables: the public
# convert_variables_to_constants_v2 fails on a graph that assigns them, as BatchNorm does in training.
from tensorflow.python.framework.convert_to_constants import _run_inline_graph_optimization

from contract.manifest import Manifest
from export.keras_model import load_keras
from verify.diagnose.tracers import PASSING, Kept, Step, Trace, Values


class _Graph:
    """A concrete function with everything inlined: any of its tensors can be fetched, and any replaced."""

    def __init__(self, function: Any, label: Callable[[str], str]) -> None:
        self._label = label
        inlined = _run_inline_graph_optimization(function, False, True)
        captured = list(zip(function.inputs[::-1], function.captured_inputs[::-1], strict=False))

        def imported() -> None:
            graph = tf.compat.v1.get_default_graph()
            replaced = {placeholder.name: graph.capture(value) for placeholder, value in captured}
            tf.graph_util.import_graph_def(inlined, name="", input_map=replaced)

        self._wrapped = tf.compat.v1.wrap_function(imported, [])
        self._input, self._output = _name(function.inputs[0]), _name(function.outputs[0])
        # In the order of computation: an imported graph lists its operators in any order.
        self._operations = list(_sorted(self._wrapped.graph.get_operations()))
        self._pruned: dict[tuple[Any, ...], Any] = {}

    def run(self, images: Values, values: Mapping[str, Values], kept: Kept = None) -> Trace:
        given = {self._input: images, **values}
        computed = {name: result.numpy() for name, result in self._fetch(given, kept).items()}
        return Trace.of(self._steps({**computed, **given}), self._input, self._output, len(images))

    def _fetch(self, given: Mapping[str, Values], kept: Kept) -> Mapping[str, Any]:
        """Every floating-point tensor by name, computed with the given ones in place of their own values."""
        names = tuple(given)
        key = (names, None if kept is None else frozenset(kept))
        if key not in self._pruned:  # pruning takes longer than the run
            tensors = {_name(tensor): tensor for operation in self._operations for tensor in operation.outputs}
            wanted = {
                name: tensor
                for name, tensor in tensors.items()
                if tensor.dtype.is_floating and tensor.op.type != "Placeholder"
                if kept is None or name in kept or tensor.op.type in PASSING or name == self._output
            }
            self._pruned[key] = self._wrapped.prune([tensors[name] for name in names], wanted)
        fetched: Mapping[str, Any] = self._pruned[key](*map(tf.constant, given.values()))
        return fetched

    def _steps(self, values: Mapping[str, Values]) -> Iterator[Step]:
        for operation in self._operations:
            for tensor in operation.outputs:
                name = _name(tensor)
                yield Step(
                    name, self._label(name), operation.type, tuple(map(_name, operation.inputs)), values.get(name)
                )


class SavedModelTracer:
    """Traces the signature `serving_default`."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._model = tf.saved_model.load(str(folder))  # without it the function below fails
        self._function = self._model.signatures["serving_default"]
        self._graph = _Graph(self._function, lambda name: "/".join(name.split("/")[-2:]))

    def trace(self, images: Values, kept: Kept = None) -> Trace:
        return self._graph.run(images, {}, kept)

    def with_values(self, images: Values, values: Mapping[str, Values], kept: Kept = None) -> Trace:
        return self._graph.run(images, values, kept)

    def named_weights(self) -> Mapping[str, NDArray[Any]]:
        return {weight.name.removesuffix(":0"): weight.numpy() for weight in self._floats()}

    def with_weights(self, images: Values, weights: Mapping[str, NDArray[Any]], kept: Kept = None) -> Trace:
        return _with_weights(
            {each.name.removesuffix(":0"): each for each in self._floats()}, weights, self, images, kept
        )

    def _floats(self) -> list[Any]:
        return [variable for variable in self._function.variables if variable.dtype.is_floating]

    def in_training(self, images: Values) -> Trace | None:
        return None  # its BatchNorm is not a layer any more, only sums and products

    def weights(self) -> Iterator[NDArray[Any]]:
        captured = (value for value in self._function.captured_inputs if value.dtype != tf.resource)
        return (weight.numpy() for weight in (*self._function.variables, *captured))

    def close(self) -> None:
        """Nothing is held outside this process's memory."""


class KerasTracer:
    """Traces a Keras model, operator by operator; steps carry the names of their layers."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder, self._manifest = folder, manifest
        self._spec = manifest.inputs[0]
        self._model = load_keras(self._folder, self._manifest)
        self._graph = self._traced(self._model, training=False)

    def trace(self, images: Values, kept: Kept = None) -> Trace:
        return self._graph.run(images, {}, kept)

    def with_values(self, images: Values, values: Mapping[str, Values], kept: Kept = None) -> Trace:
        return self._graph.run(images, values, kept)

    def named_weights(self) -> Mapping[str, NDArray[Any]]:
        return {weight.path: weight.numpy() for weight in self._model.weights}

    def with_weights(self, images: Values, weights: Mapping[str, NDArray[Any]], kept: Kept = None) -> Trace:
        return _with_weights({each.path: each for each in self._model.weights}, weights, self, images, kept)

    def in_training(self, images: Values) -> Trace | None:
        return self._training.run(images, {}) if self._training else None

    @functools.cached_property
    def _training(self) -> _Graph | None:
        model = load_keras(self._folder, self._manifest)  # a copy: its moving averages move
        known = any(isinstance(layer, keras.layers.BatchNormalization) for layer in _layers(model))
        return self._traced(model, training=True) if known else None

    def weights(self) -> Iterator[NDArray[Any]]:
        return (weight.numpy() for weight in self._model.weights)

    def close(self) -> None:
        """Nothing is held outside this process's memory."""

    def _traced(self, model: keras.Model, training: bool) -> _Graph:
        scopes: dict[str, str] = {}
        for layer in _layers(model):
            _observe(layer, scopes, training and isinstance(layer, keras.layers.BatchNormalization))
        function = tf.function(lambda pixels: model(pixels, training=False))
        spec = tf.TensorSpec(self._spec.shape, self._spec.dtype, name=self._spec.name)
        return _Graph(function.get_concrete_function(spec), lambda name: _layer_label(name, scopes))


def _with_weights(
    own: Mapping[str, Any],
    weights: Mapping[str, NDArray[Any]],
    tracer: "SavedModelTracer | KerasTracer",
    images: Values,
    kept: Kept,
) -> Trace:
    """A trace with these values of variables, which get their own back afterwards."""
    before = {name: own[name].numpy() for name in weights}
    try:
        for name, array in weights.items():
            own[name].assign(array)
        return tracer.trace(images, kept)
    finally:
        for name, array in before.items():
            own[name].assign(array)


def _layers(model: Any) -> Iterator[Any]:
    for layer in model.layers:
        yield layer
        if hasattr(layer, "layers"):
            yield from _layers(layer)


def _observe(layer: Any, scopes: dict[str, str], training: bool) -> None:
    """Record the graph's name for the layer, which differs from its own; put the layer into training mode if asked."""
    call = layer.call

    @functools.wraps(call)
    def observed(*args: Any, **kwargs: Any) -> Any:
        scopes[tf.get_current_name_scope()] = layer.name
        return call(*args, **{**kwargs, "training": True}) if training else call(*args, **kwargs)

    layer.call = observed


def _layer_label(name: str, scopes: Mapping[str, str]) -> str:
    scope = max((scope for scope in scopes if f"{name}/".startswith(f"{scope}/")), key=len, default="")
    return f"{scopes[scope]}{name.removeprefix(scope)}" if scope else name


def _name(tensor: Any) -> str:
    name: str = tensor.name.removesuffix(":0")
    return name


def _sorted(operations: list[Any]) -> Iterator[Any]:
    """Each operation after those that compute its inputs, otherwise in the given order."""
    done: set[str] = set()
    stack = operations[::-1]
    while stack:
        operation = stack[-1]
        waiting = [tensor.op for tensor in operation.inputs if tensor.op.name not in done]
        if operation.name not in done and waiting:
            stack.extend(waiting)
            continue
        stack.pop()
        if operation.name not in done:
            done.add(operation.name)
            yield operation
