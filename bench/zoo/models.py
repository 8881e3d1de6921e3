"""The zoo's architectures, each written as a file by its own framework.

    python -m bench.zoo.models vit_tiny_torch FOLDER PICTURES      a process of its own for each

Offline there are no trained weights: they are random, from a fixed seed. To make parity meaningful, BatchNorm is
calibrated on pictures, and the last layer is scaled so that its answers to them spread as a trained network's do.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bring.description import FILE as MODEL_TOML
from bring.description import parse_preprocess

CLASSES = 10
ROWS = 48
"""How many pictures, or invented rows, calibrate a network."""
SPREAD = 3.0
"""The standard deviation of each class's logit over these rows."""
RESIDUAL = 0.3
"""The scale of a ConvNeXt block's output; 1e-6, where training begins, would leave the blocks untested."""
TENSORS = "rows.npz"
WORDS, LENGTH = 1000, 40
SEED = 1

Rows = NDArray[Any]


@dataclass(frozen=True)
class Member:
    """One architecture of the zoo."""

    title: str
    suffix: str
    """Of its file: `.pt2` is written by PyTorch, the others by Keras."""
    build: Callable[[int], Any]
    """The side of its pictures -> the network, which answers logits."""
    kind: str = "convolutions"
    size: int = 224
    """The side of its pictures in pixels; 0 for a network that takes other inputs."""
    preprocess: str = "none"
    answers: str = ""
    """What the file answers: a softmax is put behind the logits of Keras, unless it answers other values."""


def keras_application(name: str, size: int) -> Any:
    import keras

    build = getattr(keras.applications, name)
    net = build(weights=None, classes=CLASSES, input_shape=(size, size, 3), classifier_activation=None)
    for layer in net.layers:
        if type(layer).__name__ == "LayerScale":
            layer.gamma.assign(np.full(layer.gamma.shape, RESIDUAL, np.float32))
    return net


def keras_lstm(size: int) -> Any:
    import keras

    layers = keras.layers
    words = [keras.Input((LENGTH,), dtype="int32", name="words"), layers.Embedding(WORDS, 32), layers.LSTM(32)]
    return keras.Sequential([*words, layers.Dense(CLASSES)])


def keras_transformer(size: int) -> Any:
    """Two layers of attention over words, with a trained bias for each position."""
    import keras

    layers = keras.layers
    words = keras.Input((LENGTH,), dtype="int32", name="words")
    x = layers.Embedding(WORDS, 32, embeddings_initializer="random_normal")(words)
    x = layers.EinsumDense("bte,ef->btf", (LENGTH, 32), bias_axes="tf", bias_initializer="random_normal")(x)
    for _ in range(2):
        x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, 8)(x, x))
        x = layers.LayerNormalization()(x + layers.Dense(32)(layers.Dense(64, activation="gelu")(x)))
    return keras.Model(words, layers.Dense(CLASSES)(layers.GlobalAveragePooling1D()(x)))


def keras_two_inputs(size: int) -> Any:
    import keras

    layers = keras.layers
    grid, numbers = keras.Input((32, 32, 3), name="grid"), keras.Input((8,), name="numbers")
    seen = layers.GlobalAveragePooling2D()(layers.Conv2D(16, 3, strides=2, activation="relu")(grid))
    known = layers.Dense(16, activation="relu")(numbers)
    return keras.Model([grid, numbers], layers.Dense(CLASSES)(layers.Concatenate()([seen, known])))


def keras_detector(size: int) -> Any:
    """Boxes in pixels and scores from 0 to 1, in one output (N, places, 4 + 2), as detectors are exported."""
    import keras

    layers = keras.layers
    body = keras.applications.MobileNetV2(weights=None, include_top=False, input_shape=(size, size, 3), alpha=0.35)
    head = layers.Conv2D(6, 1, kernel_initializer=keras.initializers.RandomNormal(stddev=0.1))(body.output)
    table = layers.Activation("sigmoid")(layers.Reshape((-1, 6))(head))
    return keras.Model(body.input, layers.Rescaling([float(size)] * 4 + [1.0] * 2, name="predictions")(table))


def keras_tiny(size: int) -> Any:
    import keras

    layers = keras.layers
    parts = [layers.Conv2D(4, 3, strides=2), layers.BatchNormalization(), layers.ReLU(), layers.Flatten()]
    return keras.Sequential([keras.Input((size, size, 3)), *parts, layers.Dense(CLASSES)])


def torch_configured(name: str, size: int, **settings: Any) -> Any:
    """A network of transformers, from its configuration alone."""
    import transformers

    config = getattr(transformers, f"{name}Config")(image_size=size, num_labels=CLASSES, **settings)
    return transformers.AutoModelForImageClassification.from_config(config)


def keras_member(title: str, build: Callable[[int], Any] | None = None, suffix: str = ".keras", **more: Any) -> Member:
    return Member(f"{title} (Keras)", suffix, build or partial(keras_application, title), **more)


def torch_member(title: str, name: str, kind: str = "convolutions", size: int = 224, **settings: Any) -> Member:
    return Member(
        f"{title} (PyTorch)", ".pt2", partial(torch_configured, name, **settings), kind, size, preprocess="imagenet"
    )


ATTENTION: dict[str, Any] = {"kind": "attention", "initializer_range": 0.07}
"""Weights of about 1 / sqrt(width), as after training: with transformers' 0.02 answers hardly depend on pictures."""

ZOO = {
    "mobilenet_v2_keras": keras_member("MobileNetV2", suffix=".h5", preprocess="symmetric"),
    "resnet18_torch": torch_member(
        "ResNet-18", "ResNet", hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic"
    ),
    "mobilenet_v2_torch": torch_member("MobileNetV2", "MobileNetV2"),
    "mobilenet_v3_small_keras": keras_member("MobileNetV3Small"),
    "resnet50_v2_keras": keras_member("ResNet50V2", size=128, preprocess="symmetric"),
    "efficientnet_b0_keras": keras_member("EfficientNetB0", size=128),
    "efficientnet_b0_torch": torch_member(
        "EfficientNet-B0",
        "EfficientNet",
        width_coefficient=1.0,
        depth_coefficient=1.0,
        hidden_dim=1280,
        initializer_range=0.2,  # with transformers' 0.02 BatchNorm's epsilon is larger than the variance
    ),
    "convnext_atto_torch": torch_member(
        "ConvNeXt-atto",
        "ConvNext",
        hidden_sizes=[40, 80, 160, 320],
        depths=[2, 2, 6, 2],
        layer_scale_init_value=RESIDUAL,
    ),
    "convnext_tiny_keras": keras_member("ConvNeXtTiny", size=128),
    "vit_tiny_torch": torch_member(
        "ViT-tiny", "ViT", hidden_size=192, num_attention_heads=3, intermediate_size=768, **ATTENTION
    ),
    "swin_tiny_torch": torch_member("Swin-tiny", "Swin", **ATTENTION),
    "mobilevit_xxs_torch": torch_member(
        "MobileViT-xxs",
        "MobileViT",
        size=256,
        hidden_sizes=[64, 80, 96],
        neck_hidden_sizes=[16, 16, 24, 48, 64, 80, 320],
        expand_ratio=2.0,
        **ATTENTION,
    ),
    "lstm_keras": keras_member("LSTM over words", keras_lstm, kind="recurrent", size=0),
    "transformer_keras": keras_member("Transformer over words", keras_transformer, kind="attention", size=0),
    "two_inputs_keras": keras_member("Two inputs", keras_two_inputs, kind="dense", size=0),
    "detector_keras": keras_member(
        "Detector, boxes beside scores", keras_detector, size=128, preprocess="symmetric", answers="values"
    ),
}
"""Name -> member, in the order of the table."""

SMALL = {
    "tiny_keras": keras_member("Tiny", keras_tiny, suffix=".h5", size=32, preprocess="unit"),
    "tiny_torch": torch_member(
        "Tiny ConvNeXt",
        "ConvNext",
        size=64,
        num_stages=2,
        hidden_sizes=[8, 16],
        depths=[2, 2],
        layer_scale_init_value=RESIDUAL,
    ),
}
"""For tests."""


def write(name: str, folder: Path, pictures: Path) -> Path:
    """Write the member's file into `folder`, and beside it a model.toml with what the file does not say."""
    member = (ZOO | SMALL)[name]
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}{member.suffix}"
    rows = _prepared(member, pictures) if member.size else None
    (_write_torch if member.suffix == ".pt2" else _write_keras)(member, rows, file)
    if not member.size:
        _write_tensors(file, len(list(pictures.glob("*/*.png"))))
    toml = f'answers = "{member.answers or ("logits" if member.suffix == ".pt2" else "probabilities")}"\n'
    toml += f'preprocess = "{member.preprocess}"\n' if member.size else f'rows = "{TENSORS}"\n'
    (folder / MODEL_TOML).write_text(toml)
    return file


def _prepared(member: Member, pictures: Path) -> Rows:
    """Some pictures of every class (N, H, W, 3), preprocessed for the network."""
    files = sorted(pictures.glob("*/*.png"), key=lambda file: int(file.stem))[:ROWS]
    preprocess = parse_preprocess(member.preprocess)
    side = (member.size, member.size)
    pixels = np.stack([np.asarray(Image.open(file).convert("RGB").resize(side)) for file in files])
    rows: Rows = ((pixels * preprocess.scale - np.array(preprocess.mean)) / np.array(preprocess.std)).astype(np.float32)
    return rows


def _spread(answers: Rows) -> tuple[Rows, Rows]:
    """Factor and offset (classes) that give the last layer's answers mean 0 and deviation SPREAD."""
    factor = SPREAD / answers.std(axis=0)
    return factor, -answers.mean(axis=0) * factor


def _write_keras(member: Member, pictures: Rows | None, file: Path) -> None:
    import keras

    keras.utils.set_random_seed(SEED)
    net = member.build(member.size)
    rows = [pictures] if pictures is not None else _invented(net.inputs)
    norms = [layer for layer in net.layers if isinstance(layer, keras.layers.BatchNormalization)]
    usual = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
    if norms:
        net(rows, training=True)
    for layer, momentum in zip(norms, usual, strict=True):
        layer.momentum = momentum
    if member.answers:
        net.save(file)
        return
    factor, offset = _spread(np.asarray(net(rows, training=False)))
    last = [layer for layer in net.layers if layer.weights][-1]
    kernel, bias = last.get_weights()
    last.set_weights([kernel * factor, bias * factor + offset])
    keras.Model(net.inputs, keras.layers.Softmax()(net.outputs[0]), name=file.stem).save(file)


def _write_tensors(file: Path, count: int) -> None:
    """Rows for a network of Keras that takes no pictures, as many as the others get pictures."""
    import keras

    inputs = keras.models.load_model(file).inputs
    rows = dict(zip((entry.name for entry in inputs), _invented(inputs, count), strict=True))
    np.savez(file.with_name(TENSORS), allow_pickle=False, **rows)


def _invented(inputs: Sequence[Any], count: int = ROWS) -> list[Rows]:
    random = np.random.default_rng(SEED)
    return [
        random.integers(0, WORDS, (count, *entry.shape[1:]), dtype=np.int32)
        if "int" in entry.dtype
        else random.normal(size=(count, *entry.shape[1:])).astype(np.float32)
        for entry in inputs
    ]


def _write_torch(member: Member, pictures: Rows | None, file: Path) -> None:
    import torch
    from torch import nn

    class Logits(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, pixel_values: torch.Tensor) -> Any:
            return self.net(pixel_values=pixel_values).logits

    assert pictures is not None
    torch.manual_seed(SEED)
    net = Logits(member.build(member.size)).eval()
    rows = torch.from_numpy(pictures).permute(0, 3, 1, 2)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.train().momentum = 1.0
        net(rows)
        for norm in norms:
            norm.eval().momentum = 0.1
        factor, offset = map(torch.from_numpy, _spread(net(rows).numpy()))
        last = [module for module in net.modules() if isinstance(module, nn.Linear)][-1]
        last.weight.mul_(factor[:, None])
        last.bias.mul_(factor).add_(offset)
    batch = torch.export.Dim("batch", min=1, max=1024)
    torch.export.save(torch.export.export(net, (rows[:2].clone(),), dynamic_shapes=({0: batch},)), file)


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
