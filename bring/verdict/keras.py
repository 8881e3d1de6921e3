"""Keras files, from their bytes: HDF5 (.h5) and the zip archive (.keras). Keras is not imported."""

import io
import json
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import h5py
import numpy as np

from bring.verdict import operators
from bring.verdict.archives import check_archive, check_growth, open_member, read_member
from bring.verdict.findings import Examination, Finding, few
from contract.errors import BroughtError

CODE = "code of the file"
RUNS_CODE = {
    "Lambda": "is a Lambda: reading it runs Python code from the file",
    "__lambda__": "is a Lambda's function: reading it runs Python code from the file",
    "TorchModuleWrapper": "holds a pickled PyTorch module: reading it runs what the pickle says",
    "TFSMLayer": "is a TFSMLayer: it loads and runs a SavedModel from a path outside of the file",
    "JaxLayer": "is a JaxLayer: it calls Python functions that the file names",
    "FlaxLayer": "is a FlaxLayer: it calls Python functions that the file names",
}
"""What stands under the heading CODE, and what it does."""
MODULES = re.compile(
    r"builtins|(?:tf_)?keras(\.(layers|models|engine|activations|initializers|regularizers|constraints|losses|metrics|optimizers"
    r"|quantizers|dtype_policies|random|ops|src)(\.\w+)*)?"
)
"""Where Keras has what computes; elsewhere are its functions for files, settings and downloads."""
OF_TENSORFLOW = {"TFOpLambda", "SlicingOpLambda"}
"""Layers of Keras 2 that are a function of TensorFlow, which they name; tf_keras looks it up in all of TensorFlow."""
ONLY_KERAS_2 = {"TensorFlowOpLayer", "ClassMethod", "InstanceMethod"}


def hdf5(path: Path, max_bytes: int) -> Examination:
    """Judge a .h5 file: a model, or only its weights. Raises BroughtError if it is neither."""
    with h5py.File(path, "r") as file:
        findings = list(_hdf5_findings(path, file, max_bytes))
        if "model_config" not in file.attrs:
            if not _has_weights(file):
                raise BroughtError(f"{path} is an HDF5 file, but not a Keras model: it has no model_config.")
            return Examination("keras_weights", findings, (path,))
        version = " ".join(_text(file.attrs.get("keras_version", "1")).split())[:80]
        if version.startswith("1"):
            raise BroughtError(
                f"{path} was written by Keras {version}, which no current version reads. Open it with Keras 2.3.1 "
                "(`keras.models.load_model`), save it again, and bring that file."
            )
        findings += config_findings(json.loads(_text(file.attrs["model_config"])))
    return Examination("keras", findings, (path,))


def archive(path: Path, file: zipfile.ZipFile, max_bytes: int) -> Examination:
    """Judge a .keras archive: its config, and its weights in HDF5 or NumPy's format."""
    findings = check_archive(file, path, max_bytes)
    config = json.loads(read_member(file, "config.json"))
    if isinstance(config, dict):
        config.pop("compile_config", None)  # it is read with compile=False: nothing here is trained
    findings += config_findings(config)
    weights = [name for name in file.namelist() if "/" not in name and name.endswith((".weights.h5", ".weights.npz"))]
    if not weights:
        raise BroughtError(
            f"{path} has no weights in it (model.weights.h5): it is damaged or incomplete. Save the model again with "
            '`model.save("model.keras")`.'
        )
    for name in weights:
        with open_member(file, name, path) as member:
            if name.endswith(".npz"):
                findings += _npz_findings(member)
            else:
                with h5py.File(member, "r") as inner:
                    findings += _hdf5_findings(path, inner, max_bytes)
    return Examination("keras", findings, (path,))


def config_findings(config: Any) -> Iterator[Finding]:
    """Findings on the layers in a model's config: those that run code, and those that Keras does not have."""
    if not isinstance(config, dict) or not isinstance(config.get("class_name"), str):
        raise ValueError("its config does not describe a model")
    custom: list[str] = []
    old: list[str] = []
    called: list[str] = []
    for node in _objects(config):
        class_name, inner = node["class_name"], _inner(node)
        layer = few([str(inner.get("name", node.get("name")))])
        own = class_name.rpartition(">")[2]
        if own in RUNS_CODE and not _is_named(node):
            yield Finding(f"the layer {layer} {RUNS_CODE[own]}. Replace it with Keras's own layers and save again.")
        elif class_name in OF_TENSORFLOW:
            called.append(str(inner.get("function")))
        elif class_name in ONLY_KERAS_2:
            old.append(class_name)
        elif name := _custom(node, class_name):
            custom.append(name)
        if isinstance(vocabulary := inner.get("vocabulary"), str):
            yield Finding(
                f"the layer {layer} reads its vocabulary from {few([vocabulary])}, a file outside of the model. "
                "Give it the words themselves and save again.",
                False,
            )
    if unknown := [name for name in called if operators.purposes("keras2").get(name) != operators.COMPUTES]:
        yield Finding(
            f"it calls TensorFlow's {few(unknown)}, which are not known to compute alone. Export the model where it "
            "was made, with `model.export(folder)`, and bring that SavedModel.",
            False,
        )
    if custom:
        yield Finding(
            f"the classes or functions {few(custom)} are not Keras's own layers or operations, and their code is not "
            "in the file. Export the model where it was made, with `model.export(folder)`, and bring that SavedModel.",
            False,
        )
    if old:
        yield Finding(
            f"it has {few(old)}, which only Keras 2 reads. Open it with tf.keras of TensorFlow 2.15, write it with "
            "`model.export(folder)`, and bring that SavedModel.",
            False,
        )


def _objects(config: Any) -> Iterator[dict[str, Any]]:
    """Everything that names a class, in the config's order: layers lie in layers, in wrappers, and in arguments.

    The code of a Lambda is part of the Lambda and not yielded again.
    """
    todo = [config]
    while todo:
        node = todo.pop()
        if isinstance(node, list):
            todo += reversed(node)
        elif isinstance(node, dict):
            if isinstance(node.get("class_name"), str):
                yield node
                if node["class_name"] == "Lambda" and not _is_named(node):
                    node = {**node, "config": {**_inner(node), "function": None}}
            todo += reversed(node.values())


def _inner(node: dict[str, Any]) -> dict[str, Any]:
    inner = node.get("config")
    return inner if isinstance(inner, dict) else {}


def _is_named(node: dict[str, Any]) -> bool:
    """Whether this is a Lambda that names a function and has no code: the name is judged like any other."""
    function = _inner(node).get("function")
    return node["class_name"] == "Lambda" and isinstance(function, dict) and function.get("class_name") == "function"


def _custom(node: dict[str, Any], class_name: str) -> str | None:
    """The name of a class or function that is not of those that compute in Keras; None if all that it names are."""
    module, registered = node.get("module"), node.get("registered_name")
    names = [class_name]
    if class_name in ("function", "class"):
        names = [str(node.get("config"))]
    if class_name == "function" and isinstance(registered, str) and registered != "function":
        names.append(registered)  # some readers take this one
    for name in (registered, *names):
        if isinstance(name, str) and ">" in name:  # package>class: somebody registered it
            return name
    if module and not MODULES.fullmatch(str(module)):
        return f"{module}.{names[0]}"
    listed = operators.purposes("keras")
    if _is_named(node):
        return None  # a Lambda that is not code of the file; the function is judged by its own name
    return next((name for name in names if listed.get(name) != operators.COMPUTES), None)


def _hdf5_findings(path: Path, file: h5py.File, max_bytes: int) -> Iterator[Finding]:
    """Findings on links and data sets that lead to other files. Raises BroughtError for more bytes than the limit."""
    seen, groups, size = set(), [file["/"]], 0
    while groups:
        group = groups.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            continue
        seen.add(address)
        for name in group.id:
            kind = group.id.links.get_info(name).type
            where = f"{group.name.rstrip('/')}/{name.decode(errors='replace')}"
            if kind == h5py.h5l.TYPE_EXTERNAL:
                other = group.id.links.get_val(name)[0].decode(errors="replace")
                yield Finding(f"{few([where])} is a link to another file, {few([other])}", False)
            if kind != h5py.h5l.TYPE_HARD:
                continue
            member = h5py.h5o.open(group.id, name)
            if isinstance(member, h5py.h5g.GroupID):
                groups.append(h5py.Group(member))
            elif isinstance(member, h5py.h5d.DatasetID):
                size += member.get_space().get_simple_extent_npoints() * member.get_type().get_size()
                if elsewhere := _elsewhere(member):
                    yield Finding(f"the values of {few([where])} lie in other files, {few(elsewhere)}", False)
    check_growth(path, path.stat().st_size, size, max_bytes)


def _elsewhere(dataset: h5py.h5d.DatasetID) -> list[str]:
    """The other files that hold the values of a data set."""
    properties = dataset.get_create_plist()
    if not properties.get_external_count() and properties.get_layout() != h5py.h5d.VIRTUAL:
        return []
    member = h5py.Dataset(dataset)
    elsewhere = [str(entry[0]) for entry in member.external or ()]
    return elsewhere + [str(source.file_name) for source in (member.virtual_sources() if member.is_virtual else ())]


def _npz_findings(stream: IO[bytes]) -> Iterator[Finding]:
    """Findings on arrays of Python objects, which are pickles."""
    with zipfile.ZipFile(io.BytesIO(stream.read())) as inner:
        for name in inner.namelist():
            with inner.open(name) as member:
                read = np.lib.format.read_array_header_1_0
                if np.lib.format.read_magic(member) != (1, 0):
                    read = np.lib.format.read_array_header_2_0
                if read(member)[2].hasobject:
                    yield Finding(
                        f"the weights {few([name])} are pickled Python objects, which Keras refuses to read. Save the "
                        "model again, with its weights in HDF5.",
                        False,
                    )


def _has_weights(file: h5py.File) -> bool:
    """Whether a file without layers has the weights of some, as any version of Keras writes them."""
    if any(name in file.attrs for name in ("layer_names", "backend")):
        return True
    own = ("layers", "_layer_checkpoint_dependencies", "model_weights", "vars")
    return any(name in file for name in own) or any(
        isinstance(member, h5py.Group) and any(name in member for name in own) for member in file.values()
    )


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
