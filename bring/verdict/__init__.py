"""What kind of file a user's model is, and what it would do besides computing: judged from its bytes alone.

A model passes where all that it is made of is known to compute (operators.py): reading it then runs nothing else, and
neither does running it.

The content decides the kind, not the suffix. No framework loads anything here, no link is followed, nothing is
unpickled. Even so, the readers of HDF5 and Protocol Buffers are libraries in C: examine a file of unknown origin in a
child process that has limits.
"""

import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bring.verdict import huggingface, mlflow, others
from bring.verdict.findings import EXPECTED, Examination, Finding, few, mapped
from contract import wire
from contract.errors import STEERING, BroughtError, UntrustedModel, one_line, plain

MAX_BYTES = 4 << 30

Examiner = Callable[[Path, int], Examination]
"""(path, limit of bytes) -> what the file is. On damaged bytes it may raise anything, and BroughtError where it can."""

KINDS = {
    "keras": "a Keras model",
    "keras_weights": "a file of Keras weights, which needs ARCH=module:callable",
    "savedmodel": "a SavedModel",
    "frozen": "a frozen graph of TensorFlow 1",
    "torch": "a program of torch.export",
    "script": "a TorchScript program",
    "huggingface": "a Hugging Face folder",
    "weights": "a file of weights, which needs ARCH=module:callable",
    "onnx": "an ONNX model",
    "tflite": "a TF Lite model",
    "tfjs": "a TF.js graph model",
    "layers": "a TF.js layers model",
    "openvino": "an OpenVINO model",
    "executorch": "a program of ExecuTorch",
    "coreai": "a program of Core AI",
}


@dataclass(frozen=True)
class Verdict:
    """What a file is, and the reasons not to read it."""

    path: Path
    kind: str
    findings: tuple[Finding, ...]
    size: int
    """Bytes of all files that belong to it."""
    files: tuple[Path, ...]
    """Those files."""

    def line(self) -> str:
        """One line for people."""
        findings = "; ".join(finding.what for finding in self.findings) or "nothing in it does more than compute"
        return plain(f"{self.path}: {KINDS[self.kind]}, {_bytes(self.size)}: {findings}")


def examine(path: Path, max_bytes: int = MAX_BYTES) -> Verdict:
    """Judge a file or a folder without loading it.

    Raises BroughtError if it is missing, not a model, of an unsupported kind, damaged, or larger than `max_bytes`.
    """
    name = "a model"
    if "\n" in path.name or STEERING.search(path.name):
        raise BroughtError(f"{path.name!r} has characters in its name that would steer a terminal. Rename it.")
    try:
        path, name, examine_kind = _examiner(path)
        if path.is_file() and path.stat().st_size > max_bytes:
            raise _too_large(path, path.stat().st_size, max_bytes)
        examination = examine_kind(path, max_bytes)
        size = sum(file.stat().st_size for file in examination.files)
    except BroughtError:
        raise
    except Exception as error:  # damaged bytes make the libraries raise almost anything
        raise BroughtError(
            f"{path} looks like {name}, but is truncated or damaged ({one_line(error, 300)}). Copy or save it again."
        ) from error
    if size > max_bytes:
        raise _too_large(path, size, max_bytes)
    return Verdict(path, examination.kind, tuple(examination.findings), size, examination.files)


def insist(verdict: Verdict, trusted: bool, switch: str = "set TRUST=1 when you bring it") -> None:
    """Accept a file without findings; if the user trusts it, also one whose findings are all a matter of trust.

    Raises UntrustedModel with every finding and the switch; BroughtError where the switch would not help.
    """
    remaining = [finding for finding in verdict.findings if not (trusted and finding.trustable)]
    if not remaining:
        return
    reasons = "".join(f"\n  - {finding.what}" for finding in remaining)
    if all(finding.trustable for finding in remaining):
        raise UntrustedModel(
            f"{verdict.path} is {KINDS[verdict.kind]}, and is refused, because it does more than compute:{reasons}\n"
            f"If you trust whoever made it, {switch}."
        )
    raise BroughtError(f"{verdict.path} is {KINDS[verdict.kind]} that cannot be used, trusted or not:{reasons}")


def _examiner(path: Path) -> tuple[Path, str, Examiner]:
    """The path of the model itself, what it looks like, and its examiner, which is imported only when it is needed."""
    if path.is_dir():
        return _folder_examiner(path)
    if not path.exists():
        raise BroughtError(f"{path} does not exist. {EXPECTED}")
    if not path.is_file():
        raise BroughtError(f"{path} is neither a file nor a folder. {EXPECTED}")
    if path.name == "saved_model.pb":
        return _folder_examiner(path.parent)
    with path.open("rb") as stream:
        head = stream.read(1024)
    if not head:
        raise BroughtError(f"{path} is empty. {EXPECTED}")
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        from bring.verdict import keras

        return path, "a Keras model in HDF5", keras.hdf5
    if head.startswith(b"PK\x03\x04"):
        return path, "a zip archive", _archive
    if head[4:8] == b"TFL3":
        from bring.verdict import tflite

        return path, "a TF Lite model", tflite.file
    if head[0] == 0x80 and head[1] in range(1, 6):
        from bring.verdict import torch

        return path, "a Python pickle", torch.legacy
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        from bring.verdict import safetensors

        return path, "weights in .safetensors", safetensors.file
    if head.startswith(b"<?xml") and b"<net" in head:
        from bring.verdict import openvino

        return path, "an OpenVINO model", openvino.file
    if head[4:6] == b"ET" and head[6:8].isdigit():  # the number of any version
        from bring.verdict import executorch

        return path, "a program of ExecuTorch", executorch.file
    if re.match(rb"\s*(\[\s*)?\{", head) and not head.startswith(others.XGBOOST_BINARY):
        from bring.verdict import tfjs

        return path, "a TF.js model.json", tfjs.file
    return _protobuf_examiner(path, head)


def _folder_examiner(path: Path) -> tuple[Path, str, Examiner]:
    if (path / "saved_model.pb").is_file():
        from bring.verdict import savedmodel

        return path, "a SavedModel", savedmodel.folder
    if (path / "model.json").is_file():
        from bring.verdict import tfjs

        return path / "model.json", "a TF.js model.json", tfjs.file
    if (path / "main.mlirb").is_file():
        from bring.verdict import coreai

        return path, "a program of Core AI", coreai.folder
    if (path / "MLmodel").is_file():
        return _examiner(mlflow.model_in(path))
    if (path / "config.json").is_file() and (path / huggingface.WEIGHTS).is_file():
        return path, "a Hugging Face folder", huggingface.folder
    names = sorted(member.name for member in path.iterdir())
    if not names:
        seems = "is an empty folder"
    elif "Data" in names and "Manifest.json" in names:
        seems = "is a Core ML package, which is not read: bring the model that it was converted from"
    elif "checkpoint" in names or any(name.endswith(".index") for name in names):
        seems = f"holds TensorFlow checkpoints: {others.CHECKPOINT}"
    else:
        seems = f"is a folder without saved_model.pb or model.json (it has {few(names, 4)}). Name one model in it"
    raise BroughtError(f"{path} {seems}. {EXPECTED}")


def _archive(path: Path, max_bytes: int) -> Examination:
    with zipfile.ZipFile(path) as file:
        names = file.namelist()
        ends = {name.rpartition("/")[2] for name in names}
        if "config.json" in names and (
            "metadata.json" in names or any(name.startswith("model.weights") for name in names)
        ):
            from bring.verdict import keras

            return keras.archive(path, file, max_bytes)
        if ends & {"archive_format", "data.pkl", "constants.pkl", "serialized_exported_program.json"}:
            from bring.verdict import torch

            return torch.archive(path, file, max_bytes)
    seems = "a zip archive"
    if "saved_model.pb" in ends or "model.json" in ends:
        seems = "a zip archive with a model in it: unpack it, and name the model"
    elif models := [name for name in names if name.endswith((".tflite", ".onnx"))]:
        seems = f"a zip archive of models, as MediaPipe's tasks are: unpack it, and name one, such as {few(models[:1])}"
    elif any(name.endswith(".mlmodel") for name in names):
        seems = "a Core ML package, which is not read: bring the model that it was converted from"
    elif any(name.endswith(".npy") for name in names):
        seems = "an archive of NumPy arrays (.npz), which does not say what computes with them"
    raise BroughtError(f"{path} is {seems} (it has {few(names, 4)}). {EXPECTED}")


def _protobuf_examiner(path: Path, head: bytes) -> tuple[Path, str, Examiner]:
    """ONNX files have no signature: the top-level fields identify them. Raises BroughtError for anything else."""
    seems = others.seems(head)
    if seems is None:
        numbers, whole = wire.outline(mapped(path))
        if numbers.get(1) is int and numbers.get(7) is memoryview:
            from bring.verdict import onnx

            return path, "an ONNX model", onnx.file
        if whole and numbers.get(1) is int and max(numbers) >= 200:
            seems = "a Core ML model, which is not read: bring the model that it was converted from"
        elif whole and numbers == {1: int, 2: memoryview}:
            seems = "a SavedModel's graph. Bring its whole folder, this file by the name of saved_model.pb"
        elif whole and numbers == {1: memoryview, 4: memoryview, 5: memoryview}:
            seems = "a program of PaddlePaddle. Write it as ONNX by paddle2onnx, and bring that"
        elif whole and all(
            numbers.get(number) is memoryview for number in (1, 2, 3)
        ):  # a frozen graph's third is whole
            seems = f"the graph of training beside a TensorFlow checkpoint: {others.CHECKPOINT}"
        elif whole and numbers.get(1) is memoryview and set(numbers) <= {1, 2, 3, 4}:
            from bring.verdict import savedmodel

            return path, "a frozen graph of TensorFlow 1", savedmodel.frozen
        else:
            seems = "not a model of a supported kind, or a damaged one"
    raise BroughtError(f"{path} is {seems}. {EXPECTED}")


def _too_large(path: Path, size: int, max_bytes: int) -> BroughtError:
    return BroughtError(f"{path} has {_bytes(size)}, over the limit of {_bytes(max_bytes)}. Bring a smaller model.")


def _bytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB"
