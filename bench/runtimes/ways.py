"""Other ways to drive each runtime. Each takes an artifact's folder and manifest, and returns one call; some calls have
a `close`.

All compute with one thread, as the service's runtimes do here. Some are what a framework's documentation shows first,
others are known to be fast.
"""

import http.client
import struct
import subprocess
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from contract.manifest import Manifest
from contract.tensors import Tensors

Call = Callable[[Tensors], Any]
Way = Callable[[Path, Manifest], Call]


def keras_predict(folder: Path, manifest: Manifest) -> Call:
    from export.keras_model import load_keras

    model = load_keras(folder, manifest)
    return lambda inputs: model.predict(list(inputs.values()), verbose=0)


def keras_call(folder: Path, manifest: Manifest) -> Call:
    from export.keras_model import load_keras

    model = load_keras(folder, manifest)
    return lambda inputs: model(*inputs.values(), training=False).numpy()


def keras_concrete(folder: Path, manifest: Manifest) -> Call:
    import tensorflow as tf

    from export.keras_model import load_keras

    model = load_keras(folder, manifest)
    specs = [tf.TensorSpec(spec.shape, spec.dtype) for spec in manifest.inputs]
    function = tf.function(lambda *tensors: model(*tensors, training=False))
    concrete = function.get_concrete_function(*specs)
    return lambda inputs, owner=function: concrete(*map(tf.constant, inputs.values())).numpy()  # type: ignore[misc]


def savedmodel_signature(folder: Path, manifest: Manifest) -> Call:
    import tensorflow as tf

    model = tf.saved_model.load(str(folder))
    signature = model.signatures["serving_default"]

    def call(inputs: Tensors, owner: Any = model) -> Any:
        answers = signature(**{name: tf.constant(value) for name, value in inputs.items()})
        return next(iter(answers.values())).numpy()

    return call


def savedmodel_session(folder: Path, manifest: Manifest) -> Call:
    """A session over the SavedModel as TensorFlow 1 loads it, by its public interface."""
    import tensorflow as tf

    v1 = tf.compat.v1
    session = v1.Session(graph=tf.Graph(), config=v1.ConfigProto(intra_op_parallelism_threads=1))
    with session.graph.as_default():
        loaded = v1.saved_model.load(session, ["serve"], str(folder))
    signature = loaded.signature_def["serving_default"]
    feeds = [signature.inputs[name].name for name in sorted(signature.inputs)]
    run = session.make_callable([signature.outputs[name].name for name in sorted(signature.outputs)], feeds)
    return lambda inputs: run(*(inputs[name] for name in sorted(inputs)))[0]


def torch_module(folder: Path, manifest: Manifest) -> Call:
    import torch

    module = torch.export.load(folder / "model.pt2").module()

    def call(inputs: Tensors) -> Any:
        with torch.inference_mode():
            return module(*map(torch.from_numpy, inputs.values())).numpy()

    return call


def torch_frozen(folder: Path, manifest: Manifest) -> Call:
    return _torchscript(folder, manifest, "freeze")


def torch_optimised(folder: Path, manifest: Manifest) -> Call:
    return _torchscript(folder, manifest, "optimize_for_inference")


def _torchscript(folder: Path, manifest: Manifest, finish: str) -> Call:
    import torch

    from serve.runtimes import warm_up_inputs

    module = torch.export.load(folder / "model.pt2").module()
    examples = tuple(map(torch.from_numpy, warm_up_inputs(manifest, 2).values()))
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(module, examples, check_trace=False)  # type: ignore[no-untyped-call]
        script = getattr(torch.jit, finish)(traced.eval())

    def call(inputs: Tensors) -> Any:
        with torch.inference_mode():
            return script(*map(torch.from_numpy, inputs.values())).numpy()

    return call


def onnx_default(folder: Path, manifest: Manifest) -> Call:
    """As the documentation's first example, but for the number of threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "model.onnx", options)
    return lambda inputs: session.run(None, inputs)[0]


def onnx_binding(folder: Path, manifest: Manifest) -> Call:
    """With its inputs and outputs bound, so that nothing is looked up by name."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(folder / "model.onnx", options)

    def call(inputs: Tensors) -> Any:
        binding = session.io_binding()
        for name, value in inputs.items():
            binding.bind_cpu_input(name, value)
        for spec in manifest.outputs:
            binding.bind_output(spec.name)
        session.run_with_iobinding(binding)
        return binding.copy_outputs_to_cpu()[0]

    return call


def tflite_interpreter(folder: Path, manifest: Manifest) -> Call:
    """`set_tensor`, `invoke`, `get_tensor`: the first signature, which takes one row."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(folder / "model.tflite"), num_threads=1)
    (entry,), (answer,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.allocate_tensors()

    def call(inputs: Tensors) -> Any:
        interpreter.set_tensor(entry["index"], next(iter(inputs.values())))
        interpreter.invoke()
        return interpreter.get_tensor(answer["index"])

    return call


_OPENVINO: dict[str, Any] = {
    "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"
}  # fmt: skip


def _openvino_core() -> Any:
    import openvino

    return openvino.Core()


def openvino_call(folder: Path, manifest: Manifest) -> Call:
    """As the documentation's first example, but for the precision and the number of threads."""
    model = _openvino(folder)
    output = manifest.outputs[0].name
    return lambda inputs: model(inputs)[output]


def openvino_shared(folder: Path, manifest: Manifest) -> Call:
    """A request of its own, which shares the memory of its inputs and outputs."""
    request = _openvino(folder).create_infer_request()
    output = manifest.outputs[0].name
    return lambda inputs: request.infer(inputs, share_inputs=True, share_outputs=True)[output].copy()


def openvino_fixed(folder: Path, manifest: Manifest) -> Call:
    """The same of a graph that takes one row alone."""
    core = _openvino_core()
    model = core.read_model(folder / "model.xml")
    model.reshape({spec.name: spec.sizes_at(1) for spec in manifest.inputs})
    request = core.compile_model(model, "CPU", _OPENVINO).create_infer_request()
    output = manifest.outputs[0].name
    return lambda inputs: request.infer(inputs, share_inputs=True, share_outputs=True)[output].copy()


def openvino_queue(folder: Path, manifest: Manifest) -> Call:
    """As `benchmark_app` does for throughput: asynchronous requests, of which there is one at a time here."""
    request = _openvino(folder, PERFORMANCE_HINT="THROUGHPUT").create_infer_request()
    output = manifest.outputs[0].name

    def call(inputs: Tensors) -> Any:
        request.start_async(inputs, share_inputs=True)
        request.wait()
        return request.get_tensor(output).data.copy()

    return call


def _openvino(folder: Path, **more: str) -> Any:
    return _openvino_core().compile_model(folder / "model.xml", "CPU", _OPENVINO | more)


def executorch_execute(folder: Path, manifest: Manifest) -> Call:
    """As the documentation's first example; but the number of threads has no name there."""
    from executorch.runtime import Runtime

    method = _with_one_thread(Runtime.get().load_program(folder / "model.pte").load_method("forward"))
    return lambda inputs: method.execute(list(map(torch_tensor, inputs.values())))[0].numpy()


def executorch_bare(folder: Path, manifest: Manifest) -> Call:
    """The call below that, with answers that are copied."""
    from executorch.extension.pybindings import _C

    program = _C._load_program(str(folder / "model.pte"))
    method = _with_one_thread(program.load_method("forward"))

    def call(inputs: Tensors, owner: Any = program) -> Any:
        return method.call(list(map(torch_tensor, inputs.values())))[0].numpy()

    return call


def executorch_module(folder: Path, manifest: Manifest) -> Call:
    """The older interface, which many examples show."""
    from executorch.extension.pybindings.portable_lib import _load_for_executorch

    module = _with_one_thread(_load_for_executorch(str(folder / "model.pte")))
    return lambda inputs: module.forward(list(map(torch_tensor, inputs.values())))[0].numpy()


def torch_tensor(value: Any) -> Any:
    import torch

    return torch.from_numpy(value)


def _with_one_thread(loaded: Any) -> Any:
    from executorch.extension.pybindings import _C

    if _C._threadpool_get_thread_count() != 1:
        _C._unsafe_reset_threadpool(1)
    return loaded


class InNode:
    """A process of Node with the model, until it is closed."""

    way = ""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        script = Path(__file__).with_name("tfjs_ways.mjs")
        command = ["node", str(script), self.way, str(folder.resolve()), manifest.inputs[0].name]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._child.stdin and self._child.stdout
        self._writing, self._reading = self._child.stdin, self._child.stdout
        self.greeting = self._reading.readline()

    def close(self) -> None:
        """It ends when its standard input does."""
        self._writing.close()
        self._child.wait()
        self._reading.close()


class OverHTTP(InNode):
    """As services of Node are mostly reached: a request over a kept connection."""

    way = "http"

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        super().__init__(folder, manifest)
        self._connection = http.client.HTTPConnection("127.0.0.1", int(self.greeting))

    def __call__(self, inputs: Tensors) -> Any:
        (value,) = inputs.values()
        self._connection.request("POST", "/", value.tobytes())
        return np.frombuffer(self._connection.getresponse().read(), np.float32).reshape(len(value), -1)

    def close(self) -> None:
        self._connection.close()
        super().close()


class ByStreams(InNode):
    """As the documentation of Node reads standard input: in its event loop, when data comes."""

    way = "streams"

    def __call__(self, inputs: Tensors) -> Any:
        (value,) = inputs.values()
        self._writing.write(struct.pack("<I", value.nbytes) + value.tobytes())
        self._writing.flush()
        (size,) = struct.unpack("<I", self._reading.read(4))
        return np.frombuffer(self._reading.read(size), np.float32).reshape(len(value), -1)


WAYS: dict[str, dict[str, Way]] = {
    "keras": {"model.predict": keras_predict, "model(x)": keras_call, "concrete function": keras_concrete},
    "savedmodel": {"its signature": savedmodel_signature, "Session.make_callable": savedmodel_session},
    "torch": {
        "the program's module": torch_module,
        "TorchScript, frozen": torch_frozen,
        "TorchScript, optimize_for_inference": torch_optimised,
    },
    "onnx": {"session.run, default options": onnx_default, "IO binding": onnx_binding},
    "tflite": {"Interpreter.invoke": tflite_interpreter},
    "openvino": {
        "compiled_model(x)": openvino_call,
        "infer, memory shared": openvino_shared,
        "infer, memory shared, one row": openvino_fixed,
        "start_async, for throughput": openvino_queue,
    },
    "executorch": {
        "method.execute": executorch_execute,
        "ExecuTorchMethod.call": executorch_bare,
        "ExecuTorchModule.forward": executorch_module,
    },
    "tfjs": {"HTTP to Node": OverHTTP, "streams of Node": ByStreams},
}
"""Format -> the name of a way -> the way."""
