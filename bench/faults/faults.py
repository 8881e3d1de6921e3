"""The table of faults: what each is, into what it is planted, and what the diagnosis may call it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.faults import files, graphs, networks
from bench.faults.graphs import at_end, at_entry, by, in_order
from bench.faults.plants import Plant, in_graph, in_network

CLOSED, EDGES = "closed", "edges"

# What the diagnosis may call them
LAYOUT, SCALE, VALUES = "layout of the pictures", "normalisation", "values of the pictures"
ROWS, TEMPERATURE, MANIFEST = "rows of a batch", "temperature of the softmax", "manifest"
FLATTEN, OPERATOR, PADDING = "layout after Flatten", "operator", "padding"


@dataclass(frozen=True)
class Fault:
    """One fault, planted into one artifact."""

    title: str
    artifact: str
    """The healthy one: "keras_cnn-onnx"."""
    plant: Plant
    causes: str | tuple[str, ...]
    """How the beginning of a right diagnosis may read."""
    shows: str = CLOSED
    """Where its answers differ: on ordinary questions, so that parity has to fail, or on edge questions alone."""

    @property
    def base(self) -> str:
        return self.artifact.rpartition("-")[0]

    @property
    def format(self) -> str:
        return self.artifact.rpartition("-")[2]

    @property
    def name(self) -> str:
        """For file names and options."""
        return "".join(letter if letter.isalnum() else "-" for letter in self.title.lower()).strip("-")


def _end(activation: str | None) -> Callable[[Any], Any]:
    """The last layer with another activation."""
    return networks.with_layer(-1, lambda layers: layers.Dense(10, activation=activation, name="end"))


def _inverting(layers: Any) -> Any:
    return layers.Rescaling(-1, 255, name="inverted")


def _leaking(layers: Any) -> Any:
    return layers.Conv2D(32, 3, activation="leaky_relu")


BACKWARDS = range(27, -1, -1)
"""The rows of a picture, or its columns."""
SWAPPED = [*range(3), 8, *range(4, 8), 3, 9]
"""Classes."""

# Before the first layer: what the pixels become.

PICTURES = [
    Fault("channels as BGR", "colour-onnx", in_graph(at_entry(in_order([2, 1, 0], 3))), LAYOUT),
    Fault(
        "height and width swapped",
        "keras_cnn-savedmodel",
        in_network(networks.begins_with(lambda layers: layers.Permute((2, 1, 3)))),
        LAYOUT,
    ),
    Fault("upside down", "torch_cnn-onnx", in_graph(at_entry(in_order(BACKWARDS, 1))), LAYOUT),
    Fault("mirrored", "keras_cnn-onnx", in_graph(at_entry(in_order(BACKWARDS, 2))), LAYOUT),
    Fault("shifted by one row", "torch_cnn-onnx", in_graph(at_entry(graphs.shifted_down)), LAYOUT),
    Fault("divided by 255 twice", "keras_cnn-onnx", in_graph(at_entry(by("Div", 255))), SCALE),
    Fault("not divided by 255", "torch_cnn-onnx", in_graph(at_entry(by("Mul", 255))), SCALE),
    Fault("inverted", "keras_cnn-tflite", in_network(networks.begins_with(_inverting)), SCALE),
    Fault(
        "another mean and deviation",
        "colour-tflite",
        in_network(networks.with_layer(0, lambda layers: layers.Rescaling(1 / 127.5, -1))),
        SCALE,
    ),
    Fault(
        "a mean left out",
        "colour-savedmodel",
        in_network(networks.begins_with(lambda layers: layers.Rescaling(1, [0, 0, 104], name="mean"))),
        SCALE,
    ),
    Fault(
        "quantised with another zero point",
        "keras_cnn-onnx",
        in_graph(at_entry(graphs.through_int8(10))),
        (SCALE, VALUES),
    ),
    Fault("clipped at 200", "keras_cnn-onnx", in_graph(at_entry(by("Clip", 0, 200))), VALUES),
    Fault("clipped to 0..255", "keras_cnn-onnx", in_graph(at_entry(by("Clip", 0, 255))), VALUES, EDGES),
    Fault("negative numbers clipped", "torch_cnn-onnx", in_graph(at_entry(by("Relu"))), VALUES, EDGES),
    Fault("rounded down to whole numbers", "torch_cnn-onnx", in_graph(at_entry(by("Floor"))), VALUES, EDGES),
    Fault("wrapped into a byte", "keras_cnn-onnx", in_graph(at_entry(graphs.through_bytes)), VALUES, EDGES),
    Fault(
        "black pictures become NaN",
        "keras_cnn-onnx",
        in_graph(at_entry(graphs.divided_by_its_largest)),
        "not a number",
        EDGES,
    ),
    Fault(
        "inverted where a corner is bright",
        "keras_cnn-onnx",
        in_graph(at_entry(graphs.inverted_where_corners_are_bright)),
        (VALUES, SCALE),
        EDGES,
    ),
]


# What depends on the batch, on earlier calls, or on chance.

BATCHES = [
    Fault("wrong from row 64 of a batch on", "keras_cnn-onnx", in_graph(at_end(graphs.first_beyond(64))), ROWS),
    Fault("wrong in the second row of a batch", "torch_cnn-onnx", in_graph(at_end(graphs.first_for_the_second)), ROWS),
    Fault("rows backwards", "keras_cnn-onnx", in_graph(at_end(graphs.rows_backwards)), ROWS),
    Fault("the first row's answer for all", "torch_cnn-onnx", in_graph(at_end(graphs.first_beyond(1))), ROWS),
    Fault(
        "softmax over the batch",
        "torch_cnn-onnx",
        in_graph(graphs.with_attribute("Softmax", "axis", 0)),
        "operator (log-softmax over the batch",
    ),
    Fault(
        "BatchNorm in training mode",
        "colour-savedmodel",
        networks.in_function(networks.by_the_batch),
        "BatchNorm in training mode",
    ),
    Fault("the batch's mean subtracted", "keras_cnn-onnx", in_graph(at_entry(graphs.less_its_mean)), ROWS),
    Fault("dropout left on", "torch_cnn-onnx", in_graph(at_entry(graphs.dropped)), "chance"),
    Fault(
        "a state that grows with each call",
        "keras_cnn-savedmodel",
        networks.in_function(networks.counting),
        "earlier calls",
    ),
    Fault(
        "wrong from the 100th call on",
        "keras_cnn-savedmodel",
        networks.in_function(networks.tired),
        "earlier calls",
    ),
    Fault(
        "the answer of the request before",
        "keras_cnn-savedmodel",
        networks.in_function(networks.one_call_behind),
        "earlier calls",
    ),
]


# Behind the last layer, and what the manifest says about it.


ANSWERS = [
    Fault("softmax missing", "keras_cnn-tflite", in_network(_end(None)), "softmax missing"),
    Fault(
        "log-softmax", "torch_cnn-onnx", in_graph(graphs.replaced("Softmax", "LogSoftmax", axis=1)), "softmax missing"
    ),
    Fault(
        "softmax twice",
        "keras_cnn-savedmodel",
        in_network(networks.ends_with(lambda layers: layers.Softmax())),
        "softmax applied twice",
    ),
    Fault("sigmoid instead of softmax", "keras_cnn-tfjs", in_network(_end("sigmoid")), "operator"),
    Fault("another temperature", "torch_cnn-onnx", in_graph(graphs.colder), TEMPERATURE),
    Fault("two classes swapped", "keras_cnn-onnx", in_graph(at_end(in_order(SWAPPED, 1))), "permuted classes"),
    Fault(
        "classes backwards",
        "keras_cnn-tflite",
        in_network(networks.classes_in_order(range(9, -1, -1))),
        "permuted classes",
    ),
    Fault(
        "the same answer to all",
        "torch_cnn-onnx",
        in_graph(at_entry(by("Mul", 0))),
        ("constant answers", "normalisation"),
    ),
    Fault("outputs swapped", "numbers-onnx", in_graph(graphs.outputs_swapped), "swapped outputs"),
    Fault("two labels swapped", "keras_cnn-onnx", files.in_manifest(files.two_labels_swapped), MANIFEST),
    Fault("pictures not inverted", "keras_cnn-tflite", files.in_manifest(files.with_image(invert="never")), MANIFEST),
    Fault(
        "pictures cropped, not fitted",
        "torch_cnn-savedmodel",
        files.in_manifest(files.with_image(fit="cover")),
        MANIFEST,
    ),
]


WEIGHTS = [
    Fault(
        "one weight off",
        "torch_cnn-onnx",
        in_graph(graphs.in_weight("conv2.weight", graphs.one_weight)),
        "one weight",
    ),
    Fault("one sign flipped", "keras_cnn-tflite", files.in_buffer(4608, files.largest_sign), "sign of a weight"),
    Fault(
        "one sign flipped in the dense layer",
        "numbers-onnx",
        in_graph(graphs.in_weight("middle_1/Cast/ReadVariableOp:0", graphs.one_sign)),
        "sign of a weight",
    ),
    Fault(
        "one filter negated",
        "torch_cnn-onnx",
        in_graph(graphs.in_weight("conv2.weight", graphs.one_filter)),
        "sign of a filter",
    ),
    Fault(
        "two filters swapped",
        "torch_cnn-onnx",
        in_graph(graphs.in_weight("conv2.weight", graphs.two_filters)),
        "weights in another order",
    ),
    Fault(
        "dense weights transposed",
        "colour-onnx",
        in_graph(graphs.in_weight("square_1/Cast/ReadVariableOp:0", graphs.transposed)),
        "weights in another order",
    ),
    Fault("weights of another epoch", "keras_cnn-tflite", in_network(networks.trained_further), "other weights"),
    Fault("bias missing", "torch_cnn-onnx", in_graph(graphs.without_bias), "bias missing"),
    Fault(
        "statistics of BatchNorm lost",
        "colour-savedmodel",
        in_network(networks.with_weights(networks.without_mean)),
        "weights missing",
    ),
    Fault(
        "another epsilon of BatchNorm",
        "colour-onnx",
        in_network(networks.with_layer("norm", lambda layers: layers.BatchNormalization(epsilon=0.1, name="norm"))),
        "epsilon of BatchNorm",
    ),
    Fault("weights rounded to bfloat16", "keras_cnn-tfjs", files.in_shard(graphs.as_bfloat16), "precision (bfloat16"),
    Fault(
        "weights rounded to float16",
        "keras_cnn-onnx",
        in_graph(graphs.in_every_weight(graphs.as_float16)),
        "precision (float16",
    ),
    Fault(
        "weights rounded to int8",
        "torch_cnn-onnx",
        in_graph(graphs.in_every_weight(graphs.as_int8)),
        "precision (int8",
    ),
    Fault("int8 of TF Lite", "keras_cnn-tflite", files.quantised("int8"), "precision (int8"),
    Fault("int8 of ONNX Runtime", "keras_cnn-onnx", files.quantised_dynamically, "precision (int8"),
    Fault("one bit of a weight", "keras_cnn-tfjs", files.in_shard(files.exponent), "one weight"),
    Fault("weights before training", "colour-tflite", in_network(networks.untrained), "other weights"),
    Fault(
        "kernels turned",
        "keras_cnn-savedmodel",
        in_network(networks.with_weights(lambda weights: [*weights[:2], weights[2].swapaxes(0, 1), *weights[3:]])),
        "weights in another order",
    ),
    Fault(
        "a bias doubled",
        "colour-onnx",
        in_network(networks.with_weights(lambda weights: [*weights[:-1], 2 * weights[-1]])),
        "other weights",
    ),
    Fault("float16 of TF Lite", "torch_cnn-tflite", files.quantised("float16"), "precision (float16"),
]


LAYERS = [
    Fault("flattened HWC, columns CHW", "torch_cnn-savedmodel", networks.flattened_otherwise, FLATTEN),
    Fault(
        "flattened CHW, columns HWC",
        "torch_cnn-onnx",
        in_graph(graphs.in_weight("fc1.weight", graphs.columns((16, 5, 5), (1, 2, 0), 1))),
        FLATTEN,
    ),
    Fault(
        "columns of Keras as CHW",
        "keras_cnn-onnx",
        in_graph(graphs.in_weight("probabilities_1/Cast/ReadVariableOp:0", graphs.columns((5, 5, 16), (2, 0, 1), 0))),
        FLATTEN,
    ),
    Fault("flattened CHW by Keras's graph", "keras_cnn-onnx", in_graph(graphs.without("Transpose")), FLATTEN),
    Fault("ReLU missing", "torch_cnn-onnx", in_graph(graphs.without("Relu")), "operator missing"),
    Fault("LeakyReLU instead of ReLU", "keras_cnn-savedmodel", in_network(networks.with_layer(1, _leaking)), OPERATOR),
    Fault(
        "another slope of LeakyReLU",
        "colour-tflite",
        in_network(networks.with_layer("leaky", lambda layers: layers.LeakyReLU(0.01, name="leaky"))),
        OPERATOR,
    ),
    Fault("ReLU6 instead of ReLU", "torch_cnn-onnx", in_graph(graphs.capped_at_six), OPERATOR),
    Fault("sigmoid instead of tanh", "numbers-onnx", in_graph(graphs.replaced("Tanh", "Sigmoid")), OPERATOR),
    Fault(
        "average instead of maximum",
        "torch_cnn-onnx",
        in_graph(graphs.replaced("MaxPool", "AveragePool", 1)),
        OPERATOR,
    ),
    Fault(
        "maximum instead of average",
        "colour-savedmodel",
        in_network(networks.with_layer("pool", lambda layers: layers.MaxPooling2D(2, name="pool"))),
        OPERATOR,
    ),
    Fault("padding at the other side", "colour-onnx", in_graph(graphs.padded_at_the_other_side), PADDING),
    Fault("VALID instead of SAME", "colour-savedmodel", in_network(networks.valid), PADDING),
    Fault("a reflected border instead of zeros", "colour-tflite", networks.in_function(networks.reflected), PADDING),
    Fault(
        "resized to the nearest",
        "colour-onnx",
        in_graph(graphs.resized_by(mode="nearest", nearest_mode="floor", coordinate_transformation_mode="asymmetric")),
        "resizing",
    ),
    Fault(
        "resized with aligned corners",
        "colour-onnx",
        in_graph(graphs.resized_by(coordinate_transformation_mode="align_corners")),
        "resizing",
    ),
    Fault("resized with anti-aliasing", "colour-onnx", in_graph(graphs.smoothed), "resizing"),
    Fault(
        "GELU instead of ReLU",
        "keras_cnn-onnx",
        in_network(networks.with_layer(3, lambda layers: layers.Conv2D(16, 3, activation="gelu", name="second"))),
        OPERATOR,
    ),
    Fault("activations damped as by dropout", "torch_cnn-onnx", in_graph(graphs.damped), "scale of a layer"),
    Fault(
        "sigmoid and softmax",
        "colour-savedmodel",
        in_network(networks.with_layer("square", lambda layers: layers.Dense(16, activation="sigmoid", name="square"))),
        OPERATOR,
    ),
]


FAULTS = {fault.name: fault for fault in [*PICTURES, *BATCHES, *ANSWERS, *WEIGHTS, *LAYERS]}
"""Name -> fault, in the order of the table."""
