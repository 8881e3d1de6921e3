"""From a user's file and its description to an artifact: what is added around its graph, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from bring.description import Description, Input, Preprocess, describe, parse_preprocess
from bring.readers.keras import KerasSource
from bring.readers.onnx import OnnxSource
from bring.readers.savedmodel import SavedModelSource
from bring.readers.torch import read_program, read_weights
from bring.wrapping import Source, Wrapping, labels_of, plan
from contract.errors import BroughtError
from contract.manifest import Manifest, sha256_of_files
from serve.runtimes import load_runtime

HEIGHT, WIDTH, CLASSES = 6, 9, 4
RANDOM = np.random.default_rng(5)
KERNEL = RANDOM.normal(size=(HEIGHT * WIDTH * 3, CLASSES)).astype(np.float32) / 8
PIXELS = RANDOM.integers(0, 256, (5, HEIGHT, WIDTH, 3)).astype(np.float32)

SETTINGS = "size=6x9 scale=1/255 mean=0.1,0.2,0.3 std=0.5,0.6,0.7"
MEAN_STD = np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.6, 0.7])


# The description


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("unit", Preprocess(scale=1 / 255)),
        ("symmetric", Preprocess(scale=1 / 127.5, mean=(1.0,))),
        ("imagenet size=224", Preprocess(1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), size=(224, 224))),
        (
            "size=96x64 channels=1 layout=NCHW order=BGR fit=cover",
            Preprocess(1.0, size=(96, 64), channels=1, layout="NCHW", order="BGR", fit="cover"),
        ),
        ("none", Preprocess()),
    ],
)  # fmt: skip
def test_preprocessing_is_set_by_names_or_numbers(text: str, expected: Preprocess) -> None:
    assert parse_preprocess(text) == expected


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("imagnet", "did you mean 'imagenet'"),
        ("scal=2", "'scal' is not known; did you mean 'scale'"),
        ("scale=much", "scale is 'much', expected a number, such as 0.5 or 1/255"),
        ("scale=1/0", "expected a number"),
        ("std=0", "std is 0"),
        ("size=1,2,3", "expected one number or height and width"),
        ("size=-4", "at least 1"),
        ("layout=NHCW", "did you mean 'NHWC'"),
        ("fit=stretched", "fit is 'stretched'; did you mean 'stretch'"),
    ],
)
def test_a_mistake_in_preprocessing_is_named(text: str, words: str) -> None:
    with pytest.raises(BroughtError, match=words):
        parse_preprocess(text)


def test_model_toml_sets_everything_and_the_command_line_overrides_it(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cat\ndog\n\n", encoding="utf-8")
    (tmp_path / "model.toml").write_text(
        'name = "pets"\nlabels = "labels.txt"\n[preprocess]\nsize = [6, 9]\nscale = "1/255"\nmean = [0.5]\n'
        '[[input]]\nname = "tokens"\ndtype = "int32"\nshape = [-1, 128]\n',
        encoding="utf-8",
    )
    description = describe(tmp_path / "pets.h5", {})
    assert (description.name, description.labels) == ("pets", ("cat", "dog"))
    assert description.preprocess == Preprocess(1 / 255, (0.5,), size=(6, 9))
    assert description.inputs[0].shape == (None, 128)
    assert describe(tmp_path / "pets.h5", {"preprocess": "unit", "name": "others"}).preprocess == Preprocess(1 / 255)
    assert Description.from_json(description.to_json()) == description


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ('lables = "labels.txt"', "'lables' is not known; did you mean 'labels'"),
        ("[preprocess]\nscales = 2", "'scales' is not known; did you mean 'scale'"),
        ("name = ", "is not valid TOML"),
        ("name = " + "[" * 5_000, "is not valid TOML: maximum recursion depth"),
        ("name = " + "9" * 5_000, "is not valid TOML: Exceeds the limit"),
        ("name = 3", "expected text"),
        ('labels = ["a", "a"]', "'a' is listed twice"),
        ('labels = "nowhere.txt"', "The labels cannot be read"),
        ('data = "nowhere"', "is not a folder"),
        ('answers = "logit"', "did you mean 'logits'"),
        ("[[input]]\nshape = [1]", "an input is"),
        ('[preprocess]\nfit = "stretched"', "fit is 'stretched'; did you mean 'stretch'"),
        ("[preprocess]\nfit = 3", "fit is '3'. Expected stretch or contain or cover"),
    ],
)
def test_a_typo_in_model_toml_names_the_key_and_the_nearest(tmp_path: Path, toml: str, words: str) -> None:
    (tmp_path / "model.toml").write_text(toml, encoding="utf-8")
    with pytest.raises(BroughtError, match=words):
        describe(tmp_path / "model.h5", {})


# What goes into the graph: the same linear net in every kind of file, which takes pixels prepared outside


def write_keras(folder: Path, nchw: bool) -> Source:
    shape = (3, HEIGHT, WIDTH) if nchw else (HEIGHT, WIDTH, 3)
    layers = [keras.Input(shape), *([keras.layers.Permute((2, 3, 1))] if nchw else []), keras.layers.Flatten()]
    model = keras.Sequential([*layers, keras.layers.Dense(CLASSES, use_bias=False)])
    model.layers[-1].set_weights([KERNEL])
    model.save(folder / "net.h5", include_optimizer=False)
    return KerasSource(folder / "net.h5", Description())


class Linear(nn.Module):
    def __init__(self, nchw: bool = True) -> None:
        super().__init__()
        self.nchw = nchw
        self.kernel = nn.Parameter(torch.from_numpy(KERNEL))

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return (pictures.permute(0, 2, 3, 1) if self.nchw else pictures).flatten(1) @ self.kernel


def write_torch(folder: Path, nchw: bool) -> Source:
    shape = (3, HEIGHT, WIDTH) if nchw else (HEIGHT, WIDTH, 3)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(Linear(nchw), (torch.zeros(2, *shape),), dynamic_shapes={"pictures": {0: batch}})
    torch.export.save(program, folder / "net.pt2")
    return read_program(folder / "net.pt2", Description())


def write_onnx(folder: Path, nchw: bool) -> Source:
    shape = ["batch", 3, HEIGHT, WIDTH] if nchw else ["batch", HEIGHT, WIDTH, 3]
    nodes = [helper.make_node("Transpose", ["x"], ["y"], perm=[0, 2, 3, 1])] if nchw else []
    nodes += [
        helper.make_node("Flatten", ["y" if nchw else "x"], ["z"]),
        helper.make_node("MatMul", ["z", "kernel"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(KERNEL, "kernel")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), folder / "net.onnx")
    return OnnxSource(folder / "net.onnx", Description())


def write_savedmodel(folder: Path, nchw: bool) -> Source:
    shape = (None, 3, HEIGHT, WIDTH) if nchw else (None, HEIGHT, WIDTH, 3)

    class Net(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            self.kernel = tf.Variable(KERNEL)

        @tf.function(input_signature=[tf.TensorSpec(shape, tf.float32, name="x")])  # type: ignore[untyped-decorator]
        def __call__(self, x: Any) -> Any:
            x = tf.transpose(x, (0, 2, 3, 1)) if nchw else x
            return {"logits": tf.reshape(x, (-1, HEIGHT * WIDTH * 3)) @ self.kernel}

    net = Net()
    tf.saved_model.save(net, str(folder / "net"), signatures=net.__call__.get_concrete_function())
    return SavedModelSource(folder / "net", Description())


KINDS: dict[str, Callable[[Path, bool], Source]] = {
    "keras": write_keras,
    "torch": write_torch,
    "onnx": write_onnx,
    "savedmodel": write_savedmodel,
}


def answers_of(source: Source, wrapping: Wrapping, folder: Path, pixels: NDArray[np.float32]) -> NDArray[Any]:
    """Of the artifact that the source is written as, by the runtime that serves it."""
    target = folder / source.format
    target.mkdir(parents=True)
    files = [path for path in source.write(target, wrapping) if path.is_file()]
    tensors = (wrapping.inputs, wrapping.outputs, wrapping.image)
    manifest = Manifest("net", source.format, None, *tensors, (), sha256_of_files(target, files), batch=wrapping.batch)
    runtime = load_runtime(target, manifest)
    try:
        return runtime.predict({wrapping.inputs[0].name: pixels})[wrapping.outputs[0].name]
    finally:
        runtime.close()


def expected(pixels: NDArray[np.float32], reverse: bool = False) -> NDArray[np.float64]:
    mean, std = MEAN_STD
    ordered = pixels[..., ::-1] if reverse else pixels
    logits = ((ordered.astype(np.float64) / 255 - mean) / std).reshape(len(pixels), -1) @ KERNEL
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("nchw", [False, True], ids=["NHWC", "NCHW"])
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_go_in_and_probabilities_come_out(tmp_path: Path, kind: str, nchw: bool) -> None:
    source = KINDS[kind](tmp_path, nchw)
    wrapping = plan(source, Description(preprocess=parse_preprocess(SETTINGS)), "net")
    assert (wrapping.inputs[0].name, wrapping.inputs[0].shape) == ("pixels", (None, HEIGHT, WIDTH, 3))
    assert (wrapping.outputs[0].name, wrapping.outputs[0].shape) == ("probabilities", (None, CLASSES))
    assert wrapping.ending == ("softmax",), "the answers look like logits"
    answers = answers_of(source, wrapping, tmp_path / "artifact", PIXELS)
    np.testing.assert_allclose(answers, expected(PIXELS), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_channels_are_reversed_for_a_model_of_bgr(tmp_path: Path, kind: str) -> None:
    """`mean` and `std` are then in that order too."""
    source = KINDS[kind](tmp_path, True)
    wrapping = plan(source, Description(preprocess=parse_preprocess(f"{SETTINGS} order=BGR")), "net")
    answers = answers_of(source, wrapping, tmp_path / "artifact", PIXELS)
    np.testing.assert_allclose(answers, expected(PIXELS, reverse=True), atol=1e-5)


def test_a_file_that_needs_nothing_is_shipped_as_it_is(tmp_path: Path) -> None:
    source = write_keras(tmp_path, False)
    wrapping = plan(source, Description(preprocess=parse_preprocess("none"), answers="values"), "net")
    target = tmp_path / "artifact"
    target.mkdir()
    (file,) = source.write(target, wrapping)
    assert file.read_bytes() == (tmp_path / "net.h5").read_bytes()


def test_how_pixels_become_the_input_is_asked_for_with_examples(tmp_path: Path) -> None:
    with pytest.raises(BroughtError, match=r"nothing says how pixels 0\.\.255 become its input.*PREPROCESS=unit"):
        plan(write_keras(tmp_path, False), Description(), "net")


def test_a_rescaling_in_the_graph_is_not_asked_for(tmp_path: Path) -> None:
    model = keras.Sequential(
        [keras.Input((4, 5, 1)), keras.layers.Rescaling(1 / 255), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    model.save(tmp_path / "net.keras")
    wrapping = plan(KerasSource(tmp_path / "net.keras", Description()), Description(), "net")
    assert wrapping.preprocess is None and wrapping.image is not None and wrapping.image.shape == (4, 5, 1)


def test_a_fixed_batch_stays_and_any_number_of_rows_is_answered(tmp_path: Path) -> None:
    program = torch.export.export(Linear(), (torch.zeros(1, 3, HEIGHT, WIDTH),))
    torch.export.save(program, tmp_path / "net.pt2")
    source = read_program(tmp_path / "net.pt2", Description())
    wrapping = plan(source, Description(preprocess=parse_preprocess(SETTINGS)), "net")
    assert wrapping.batch == 1
    np.testing.assert_allclose(answers_of(source, wrapping, tmp_path / "a", PIXELS), expected(PIXELS), atol=1e-5)


def test_weights_alone_ask_for_their_network_and_input(tmp_path: Path) -> None:
    torch.save({"state_dict": Linear().state_dict()}, tmp_path / "net.pt")
    (tmp_path / "brought_nets.py").write_text(
        "from torch import nn\nfrom tests.test_bring_readers import Linear as build\n\n"
        "def other():\n    return nn.Linear(2, 3)\n"
    )
    description = Description(architecture="brought_nets:build", preprocess=parse_preprocess(SETTINGS))
    source = read_weights(tmp_path / "net.pt", description)
    wrapping = plan(source, description, "net")
    np.testing.assert_allclose(answers_of(source, wrapping, tmp_path / "a", PIXELS), expected(PIXELS), atol=1e-5)
    for description, words in (
        (Description(), "Set ARCH=module:callable"),
        (Description(architecture="brought_nets:nobody"), "brought_nets has no nobody"),
        (Description(architecture="brought_nets:other"), "are not those of brought_nets:other"),
        (Description(architecture="brought_nets:build"), "do not say what the inputs are"),
    ):
        with pytest.raises(BroughtError, match=words):
            read_weights(tmp_path / "net.pt", description)


def test_a_long_message_of_a_framework_keeps_its_reason_at_the_end(tmp_path: Path) -> None:
    """PyTorch lists every missing weight first, and the size that does not fit last."""
    (tmp_path / "long_nets.py").write_text(
        "from torch import nn\n\ndef build():\n    return nn.Sequential(*(nn.Linear(3, 3) for _ in range(60)))\n"
    )
    torch.save({"59.weight": torch.zeros(3, 4), "59.bias": torch.zeros(3)}, tmp_path / "net.pt")
    with pytest.raises(BroughtError) as error:
        read_weights(tmp_path / "net.pt", Description(architecture="long_nets:build"))
    message = str(error.value)
    assert "Missing key(s) in state_dict" in message and " ... " in message and len(message) < 800
    assert "size mismatch for 59.weight: copying a param with shape torch.Size([3, 4])" in message


def test_an_input_of_weights_alone_needs_a_shape(tmp_path: Path) -> None:
    (tmp_path / "short_nets.py").write_text("from torch import nn\n\ndef build():\n    return nn.Linear(3, 2)\n")
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "net.pt")
    first, second = Input("a", shape=(None, 3)), Input("b", range=(0, 1))
    with pytest.raises(BroughtError, match=r"model\.toml gives no shape for the input b: expected its shape, such as"):
        read_weights(tmp_path / "net.pt", Description(architecture="short_nets:build", inputs=(first, second)))
    said = Description(architecture="short_nets:build", inputs=(replace(first, range=(0, 1)),))
    assert plan(read_weights(tmp_path / "net.pt", said), said, "net").inputs[0].shape == (None, 3)


# What cannot be shipped


def onnx_of(folder: Path, nodes: list[onnx.NodeProto], shape: list[Any], constants: list[Any] = []) -> Source:  # noqa: B006
    entry = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "net", [entry], [output], constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10), folder / "net.onnx")
    return OnnxSource(folder / "net.onnx", Description())


def test_answers_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Abs", ["x"], ["a"]),
        helper.make_node("Neg", ["a"], ["b"]),
        helper.make_node("Log", ["b"], ["y"]),
    ]
    with pytest.raises(BroughtError, match="answers NaN"):
        plan(onnx_of(tmp_path, nodes, ["batch", 3]), Description(), "net.onnx")


def test_answers_that_do_not_depend_on_the_input_are_refused(tmp_path: Path) -> None:
    zero = numpy_helper.from_array(np.zeros(1, np.float32), "zero")
    with pytest.raises(BroughtError, match="gives the same answers to different invented rows"):
        plan(
            onnx_of(tmp_path, [helper.make_node("Mul", ["x", "zero"], ["y"])], ["batch", 3], [zero]),
            Description(),
            "net.onnx",
        )


def test_labels_that_do_not_match_the_answers_are_refused(tmp_path: Path) -> None:
    source = write_onnx(tmp_path, False)
    description = Description(preprocess=parse_preprocess(SETTINGS), labels=("a", "b", "c"))
    wrapping = plan(source, description, "net")
    with pytest.raises(BroughtError, match=r"gives 3 labels, and the answers of net, \[-1, 4\], have 4 classes"):
        labels_of(wrapping, description, "net")
    assert labels_of(wrapping, replace(description, labels=()), "net") == ("class 0", "class 1", "class 2", "class 3")
    assert labels_of(wrapping, replace(description, labels=(), classes=("p", "q", "r", "s")), "net") == (
        "p",
        "q",
        "r",
        "s",
    )


def test_a_size_that_contradicts_the_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BroughtError, match=r"PREPROCESS or model\.toml says a height of 7, and net takes 6"):
        plan(write_onnx(tmp_path, False), Description(preprocess=parse_preprocess("unit size=7x9")), "net")


def test_a_size_that_neither_file_nor_description_says_is_asked_for(tmp_path: Path) -> None:
    node = helper.make_node("GlobalAveragePool", ["x"], ["y"])
    with pytest.raises(
        BroughtError, match=r'takes pictures of any height: choose the one to ship, such as PREPROCESS="size=224"'
    ):
        plan(
            onnx_of(tmp_path, [node], ["batch", 3, None, None]), Description(preprocess=parse_preprocess("unit")), "net"
        )


def test_preprocessing_for_other_inputs_than_pictures_is_refused(tmp_path: Path) -> None:
    source = onnx_of(tmp_path, [helper.make_node("Relu", ["x"], ["y"])], ["batch", 3])
    with pytest.raises(BroughtError, match="PREPROCESS is for pictures"):
        plan(source, Description(preprocess=parse_preprocess("unit")), "net")


def test_a_description_is_read_back_as_it_was_written() -> None:
    description = Description(
        labels=("a",), data=Path("pictures"), preprocess=parse_preprocess("imagenet size=8"), trusted=True
    )
    assert Description.from_json(description.to_json()) == description
