"""The operators that each framework has: one a line, by the name that the lists of bring/verdict/ have for it.

python -m tests.registries KIND      in a process of its own, since the frameworks disturb each other
"""

import importlib
import inspect
import pkgutil
import re
import sys
import warnings
from collections.abc import Iterable
from pathlib import Path

from bring.verdict.operators import purposes
from contract.code import ROOT


def savedmodel() -> Iterable[str]:
    """With the names of their inputs and attributes."""
    from tensorflow.core.framework import op_def_pb2
    from tensorflow.python.client import pywrap_tf_session

    operators = op_def_pb2.OpList()
    operators.ParseFromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
    for operator in operators.op:
        if not operator.name.startswith("_"):  # TensorFlow's own
            yield " ".join([operator.name, *(each.name for each in (*operator.input_arg, *operator.attr))])


def onnx() -> Iterable[str]:
    import onnx.defs
    from onnxruntime.capi import onnxruntime_pybind11_state as runtime

    schemas = [*onnx.defs.get_all_schemas_with_history(), *runtime.get_all_operator_schema()]
    return {f"{schema.domain}::{schema.name}".removeprefix("::") for schema in schemas}


def tflite() -> Iterable[str]:
    from ai_edge_litert.schema_py_generated import BuiltinOperator

    return (name for name in vars(BuiltinOperator) if name[0] != "_" and name != "CUSTOM")


def tfjs() -> Iterable[str]:
    lists = ROOT / "web" / "node_modules" / "@tensorflow" / "tfjs-converter" / "dist" / "operations" / "op_list"
    for file in lists.glob("*.js"):
        yield from re.findall(r"'?tfOpName'?: '(\w+)'", file.read_text())


def openvino() -> Iterable[str]:
    """Of all its sets of operators, from their sources: no call lists them."""
    import openvino

    for file in Path(openvino.__file__).parent.glob("opset*/ops.py"):
        yield from re.findall(r'create\(\s*"(\w+)"', file.read_text())


def executorch() -> Iterable[str]:
    import torch  # noqa: F401 # its libraries have to be there first
    from executorch.extension.pybindings import _C

    return {name.partition(".")[0] for name in _C._get_operator_names()}


def coreai() -> Iterable[str]:
    """What its compiler registers, of the names in its library: no call lists them."""
    import coreai.authoring
    from coreai._compiler import _mlir_libs

    context = coreai.authoring.Context()._mlir_context
    (library,) = Path(_mlir_libs.__file__).parent.glob("_mlir.*.so")
    names = {name.decode() for name in re.findall(rb"aicode\.[a-z0-9_.]+", library.read_bytes())}
    return {name.partition(".")[2] for name in names if context.is_registered_operation(name)}


def torch() -> Iterable[str]:
    import torch
    import torch._higher_order_ops
    import torch.ao.quantization.fx._decomposed

    for module in pkgutil.iter_modules(torch._higher_order_ops.__path__):
        importlib.import_module(f"torch._higher_order_ops.{module.name}")
    names = {name.partition(".")[0].replace("::", ".") for name in torch._C._dispatch_get_all_op_names()}
    yield from (name for name in names if name.startswith(("aten.", "prims.", "quantized.", "quantized_decomposed.")))
    yield from (f"higher_order.{name}" for name in torch._ops._higher_order_ops)


def torchscript() -> Iterable[str]:
    """What its interpreter has besides the operators of programs: those are in torch.txt."""
    import torch

    of_programs = purposes("torch")
    names = {schema.name.partition(".")[0].replace("::", ".") for schema in torch._C._jit_get_all_schemas()}
    yield from (name for name in names - of_programs.keys() if name.startswith(("aten.", "prim.")))


def keras() -> Iterable[str]:
    import keras
    import keras.src.ops
    from keras.src.ops.operation import Operation

    public = "layers models activations initializers regularizers constraints losses metrics optimizers quantizers"
    modules = ["keras", *(f"keras.{name}" for name in public.split()), "keras.optimizers.schedules"]
    modules += ["keras.dtype_policies", "keras.random", "keras.ops", "keras.ops.image"]
    for module in map(importlib.import_module, modules):
        yield from (name for name, value in vars(module).items() if name[0] != "_" and not inspect.ismodule(value))
    for info in pkgutil.iter_modules(keras.src.ops.__path__):
        if not info.name.endswith("_test"):
            module = importlib.import_module(f"keras.src.ops.{info.name}")
            classes = (value for value in vars(module).values() if inspect.isclass(value))
            yield from (value.__name__ for value in classes if issubclass(value, Operation))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    print("\n".join(sorted(set(globals()[sys.argv[1]]()))))
