"""Harmless models of the frameworks' own layers and operators, to judge: they only compute.

python -m tests.harmless_models keras|tensorflow|torch FOLDER      prints how many layers, functions or models they have
"""

import contextlib
import inspect
import os
import sys
import warnings
from pathlib import Path
from typing import Any

CODE = {"Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"}
SHAPES = ((6, 6, 3), (6, 3), (3,), (4, 6, 6, 3))
TWO = "units filters kernel_size n output_dim num_heads key_dim size pool_size num_query_heads num_key_value_heads"
VALUES: dict[str, Any] = {
    **dict.fromkeys((*TWO.split(), "head_dim", "output_size", "height", "width", "num_bins"), 2),
    **dict.fromkeys(("rate", "factor", "stddev", "l1"), 0.1),
    "input_dim": 9,
    "dims": (1,),
    "target_shape": (-1,),
    "activation": "relu",
    "scale": 2.0,
    "axes": -1,
    "vocabulary": ["a", "b"],
    "bin_boundaries": [0.0, 1.0],
}
"""What a layer that cannot be made without arguments gets for them."""
NO_TENSOR = {"convert_to_numpy", "is_tensor", "ndim", "shape", "size"}


def keras(folder: Path) -> int:
    """Files with each layer and operation of Keras that takes one tensor, and with all else that a config can name."""
    import keras

    count = 0
    for shape in SHAPES:
        entry, outputs = keras.Input(shape), []
        calls = [call for name, call in vars(keras.ops).items() if inspect.isfunction(call) and name not in NO_TENSOR]
        members: list[Any] = [*vars(keras.layers).values(), *(calls if shape == SHAPES[0] else ())]
        for call in members:
            with contextlib.suppress(Exception):  # it takes something else than such a tensor, or other arguments
                answer: Any = None
                if inspect.isfunction(call):
                    answer = call(entry)
                elif inspect.isclass(call) and call.__name__ not in CODE:
                    listed = [each for name, each in inspect.signature(call).parameters.items() if name in VALUES]
                    given = {each.name: VALUES[each.name] for each in listed if each.default in (None, each.empty)}
                    layer: Any = call(**given)
                    answer = layer(entry)
                keras.Model(entry, answer)
                outputs.append(answer)
        keras.Model(entry, outputs).save(folder / f"{len(shape)}.keras")
        count += len(outputs)
    places = {"activations": "activation", "initializers": "kernel_initializer", "constraints": "kernel_constraint"}
    dense = [keras.layers.Dense(4, kernel_regularizer=kind) for kind in ("l1", "l2")]
    for module, place in places.items():
        for name, kind in vars(getattr(keras, module)).items():
            if name not in ("deserialize", "get", "serialize"):
                with contextlib.suppress(Exception):  # an initializer of another rank, for example
                    named = keras.layers.Dense(4, **{place: kind() if inspect.isclass(kind) else kind})
                    keras.Sequential([keras.Input((4,)), named])
                    dense.append(named)
    keras.Sequential([keras.Input((4,)), *dense]).save(folder / "named.h5")
    return count + len(dense)


def tensorflow(folder: Path) -> int:
    """SavedModels: recurrent layers and attention, words, control flow, and one of TensorFlow 1 with a vocabulary."""
    import keras
    import tensorflow as tf

    layers = keras.layers
    rows = keras.Input((6, 4))
    seen = layers.LSTM(4, return_sequences=True)(rows)
    seen = layers.LayerNormalization()(layers.MultiHeadAttention(2, 4)(seen, seen))
    keras.Model(rows, layers.Dense(2)(layers.Dropout(0.1)(seen))).export(folder / "rows", verbose=False)
    words = keras.Input((1,), dtype="string")
    numbers = layers.TextVectorization(vocabulary=["a", "b"], output_sequence_length=3)(words)
    keras.Model(words, layers.Embedding(9, 2)(numbers)).export(folder / "words", verbose=False)

    module = tf.Module()
    module.state = tf.Variable([0.0, 0.0])
    module.table = tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(["a"], [1.0]), 0.0)

    def compute(x: tf.Tensor, name: tf.Tensor) -> tf.Tensor:
        module.state.assign_add(x)
        x = tf.cond(x[0] > 0, lambda: tf.sin(x), lambda: tf.cos(x))
        x = tf.while_loop(lambda i, x: i < 3, lambda i, x: (i + 1, 2 * x), (0, x))[1]
        x = tf.switch_case(tf.cast(x[0], tf.int32), [lambda: x, lambda: -x, lambda: x + 1])
        x = tf.map_fn(lambda each: each + module.table.lookup(name), x) + tf.random.normal([2], seed=1)
        tf.debugging.assert_all_finite(x, "finite")
        return tf.linalg.inv(tf.stack([x, x + tf.constant([0.0, 1.0])])) + module.state

    module.f = tf.function(compute, input_signature=[tf.TensorSpec([2], tf.float32), tf.TensorSpec([], tf.string)])
    tf.saved_model.save(module, folder / "control", signatures=module.f)

    (folder / "words.txt").write_text("a\nb\n")
    v1 = tf.compat.v1
    with tf.Graph().as_default(), v1.Session() as session:
        x = v1.placeholder(tf.string, [None], "x")
        words = tf.lookup.TextFileInitializer(str(folder / "words.txt"), tf.string, 0, tf.int64, -1)
        kernel = v1.get_variable("kernel", [1, 2])
        table = tf.lookup.StaticHashTable(words, -1)
        y = tf.matmul(tf.cast(table.lookup(x), tf.float32)[:, None], kernel)
        session.run([v1.global_variables_initializer(), v1.tables_initializer()])
        builder = v1.saved_model.Builder(str(folder / "older"))
        signature = v1.saved_model.predict_signature_def({"x": x}, {"y": y})
        builder.add_meta_graph_and_variables(
            session,
            ["serve"],
            {"serving_default": signature},
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
            main_op=v1.tables_initializer(),
        )
        builder.save()
    return 4


def torch(folder: Path) -> int:
    """Programs of many modules each, and one of control flow."""
    import torch
    from torch import nn

    class All(nn.Module):
        def __init__(self, *modules: nn.Module) -> None:
            super().__init__()
            self.modules_of_it = nn.ModuleList(modules)

        def forward(self, x: torch.Tensor) -> Any:
            return [module(x) for module in self.modules_of_it]

    class Control(nn.Module):
        def forward(self, x: torch.Tensor) -> Any:
            with torch.no_grad():
                y = torch.cond(x.sum() > 0, lambda x: x.sin(), lambda x: x.cos(), (x,))
            y = torch.vmap(lambda row: row * 2)(y) + x.new_empty(x.shape).fill_(1)
            return y, x.topk(2).values, torch.fft.rfft(x), (x @ x.mT).inverse(), x[x.argmax(0)[0]]

    of_pictures = [
        *(kind(4, 2, 2) for kind in (nn.Conv2d, nn.ConvTranspose2d)),
        *(kind(2) for kind in (nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.PixelShuffle, nn.ChannelShuffle)),
        *(kind(2) for kind in (nn.ZeroPad2d, nn.ReflectionPad2d, nn.ReplicationPad2d)),
        *(kind(4) for kind in (nn.BatchNorm2d, nn.InstanceNorm2d)),
        nn.GroupNorm(2, 4),
        *(nn.Upsample(scale_factor=2.0, mode=mode) for mode in ("nearest", "bilinear", "bicubic")),
    ]
    of_rows = [
        *(kind(4, 4) for kind in (nn.GRU, nn.LSTM, nn.RNN, nn.Linear)),
        *(kind() for kind in (nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.ELU, nn.Hardswish, nn.PReLU, nn.RReLU)),
        *(kind() for kind in (nn.Sigmoid, nn.Tanh, nn.LogSigmoid, nn.Softsign, nn.Tanhshrink, nn.Dropout, nn.Hardtanh)),
        *(kind(-1) for kind in (nn.Softmax, nn.LogSoftmax, nn.Softmin)),
        *(kind(4) for kind in (nn.LayerNorm, nn.RMSNorm)),
        nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
    ]
    batch = {0: torch.export.Dim("batch", min=1, max=64)}
    for name, module, example in (
        ("pictures", All(*of_pictures), torch.rand(3, 4, 6, 6)),
        ("rows", All(*of_rows), torch.rand(3, 5, 4)),
        ("words", All(nn.Embedding(9, 4), nn.EmbeddingBag(9, 4)), torch.ones(3, 5, dtype=torch.int64)),
        ("control", Control(), torch.rand(3, 4, 4)),
    ):
        program = torch.export.export(module.eval(), (example,), dynamic_shapes=None if name == "rows" else (batch,))
        torch.export.save(program, folder / f"{name}.pt2")
    return len(of_pictures) + len(of_rows)


if __name__ == "__main__":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    warnings.simplefilter("ignore")
    print(globals()[sys.argv[1]](Path(sys.argv[2])))
