"""Faulty networks: each is then converted faithfully by the project's own exporters."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bench.faults.plants import Bed, Plant, convert, put
from contract import dataset
from contract.manifest import read_manifest, sha256_of_files, write_manifest


def with_layers(source: Any, layers: Sequence[Any]) -> Any:
    """A network of these layers, on the source's input."""
    import keras

    return keras.Sequential([keras.Input(source.input_shape[1:], name=source.inputs[0].name), *layers])


def begins_with(*make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """With layers before the source's; each is made from `keras.layers`."""

    def change(source: Any) -> Any:
        import keras

        return with_layers(source, [*(each(keras.layers) for each in make), *source.layers])

    return change


def ends_with(make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """With a layer behind the source's."""

    def change(source: Any) -> Any:
        import keras

        return with_layers(source, [*source.layers, make(keras.layers)])

    return change


def with_layer(place: int | str, make: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """With another layer in the place of one; it gets the weights, where it has any."""

    def change(source: Any) -> Any:
        import keras

        layers = list(source.layers)
        number = place if isinstance(place, int) else [layer.name for layer in layers].index(place)
        old, layers[number] = layers[number], make(keras.layers)
        network = with_layers(source, layers)
        layers[number].set_weights(old.get_weights())
        return network

    return change


def with_weights(change: Callable[[list[Any]], list[Any]]) -> Callable[[Any], Any]:
    def changed(source: Any) -> Any:
        source.set_weights(change(source.get_weights()))
        return source

    return changed


def without_mean(weights: list[Any]) -> list[Any]:
    """The mean of BatchNorm, which comes behind a kernel, gamma and beta, is 0."""
    return [*weights[:3], 0 * weights[3], *weights[4:]]


def classes_in_order(order: Sequence[int]) -> Callable[[Any], Any]:
    """The last layer's columns permuted."""
    return with_weights(lambda weights: [*weights[:-2], weights[-2][:, order], weights[-1][list(order)]])


def trained_further(source: Any) -> Any:
    """The weights of another epoch."""
    import keras

    keras.utils.set_random_seed(5)
    split = dataset.load("fashion_mnist", "train", 1500)
    source.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy")
    source.fit(split.images.astype(np.float32), split.labels, batch_size=64, verbose=0)
    return source


def valid(source: Any) -> Any:
    """The second convolution does not pad; its missing border is filled with zeros."""
    import keras

    layers = list(source.layers)
    place = next(number for number, layer in enumerate(layers) if layer.name == "second")
    convolution = keras.layers.Conv2D(12, 3, activation="relu", name="second")
    network = with_layers(source, [*layers[:place], convolution, keras.layers.ZeroPadding2D(1), *layers[place + 1 :]])
    convolution.set_weights(layers[place].get_weights())
    return network


# --- PyTorch's weights in Keras's network


def flattened_otherwise(bed: Bed) -> None:
    """PyTorch's dense layer keeps its columns in the order CHW, and the graph flattens HWC."""
    import keras
    import torch

    from train.keras_cnn import build

    weights = torch.load(bed.source / "state_dict.pt", weights_only=True)
    kernels = [weights[f"{name}.weight"].permute(2, 3, 1, 0) for name in ("conv1", "conv2")]
    biases = [weights[f"{name}.bias"] for name in ("conv1", "conv2", "fc1")]
    twin: keras.Model = build((28, 28, 1), 10)
    twin.set_weights(
        [each.numpy() for pair in zip([*kernels, weights["fc1.weight"].T], biases, strict=True) for each in pair]
    )
    made = bed.artifact.parent.parent / "made" / "keras"
    made.mkdir(parents=True)
    twin.save(made / "model.h5", include_optimizer=False)
    manifest = read_manifest(bed.source)
    files = sha256_of_files(made, [made / "model.h5"])
    write_manifest(made, type(manifest)(**{**vars(manifest), "format": "keras", "parent": None, "files": files}))
    convert(made, bed.artifact, bed.manifest)


# --- Functions with a state, or in training mode


def in_function(make: Callable[[Any], tuple[Callable[..., Sequence[Any]], Sequence[Any]]]) -> Plant:
    """A SavedModel of a function: `make` takes the healthy network; it returns the function and its variables."""

    def plant(bed: Bed) -> None:
        import keras

        from export import signatures

        network = keras.models.load_model(bed.source / "model.h5", compile=False)
        function, variables = make(network)
        made = bed.artifact.parent.parent / "made" / "savedmodel"
        made.mkdir(parents=True)
        manifest = read_manifest(bed.source)
        known = [weight.value for weight in network.weights]
        files = sha256_of_files(made, signatures.save(function, [*known, *variables], manifest, made))
        write_manifest(
            made, type(manifest)(**{**vars(manifest), "format": "savedmodel", "parent": "keras", "files": files})
        )
        if bed.manifest.format == "savedmodel":
            put(made, bed.artifact, bed.manifest)
        else:
            convert(made, bed.artifact, bed.manifest)

    return plant


def counting(network: Any) -> Any:
    """Each call scales its pictures a little less: a state that nobody resets."""
    import tensorflow as tf

    calls = tf.Variable(0.0)

    def call(pixels: Any) -> Sequence[Any]:
        return [network(pixels * (1 - 0.01 * calls.assign_add(1.0)), training=False)]

    return call, [calls]


def tired(network: Any) -> Any:
    """Right for 100 calls; from then on the pictures are inverted."""
    import tensorflow as tf

    calls = tf.Variable(0.0)

    def call(pixels: Any) -> Sequence[Any]:
        return [network(tf.where(calls.assign_add(1.0) > 100, 255 - pixels, pixels), training=False)]

    return call, [calls]


def one_call_behind(network: Any) -> Any:
    """The first row's answer is that of the call before."""
    import tensorflow as tf

    kept = tf.Variable(tf.fill((1, 10), 0.1))

    def call(pixels: Any) -> Sequence[Any]:
        answers = network(pixels, training=False)
        before = tf.identity(kept)
        with tf.control_dependencies([before]):
            stored = kept.assign(answers[:1])
        with tf.control_dependencies([stored]):
            return [tf.concat([before, answers[1:]], axis=0)]

    return call, [kept]


def untrained(source: Any) -> Any:
    """The same network before any training."""
    import keras

    keras.utils.set_random_seed(9)
    return keras.models.clone_model(source)


def reflected(network: Any) -> Any:
    """The second convolution's border repeats the picture instead of zeros."""
    import tensorflow as tf

    def call(values: Any) -> Sequence[Any]:
        for layer in network.layers:
            if layer.name == "second":
                values = tf.pad(values, [(0, 0), (1, 1), (1, 1), (0, 0)], mode="REFLECT")
                values = tf.nn.relu(tf.nn.conv2d(values, layer.kernel.value, 1, "VALID") + layer.bias.value)
            else:
                values = layer(values)
        return [values]

    return call, []


def by_the_batch(network: Any) -> Any:
    """BatchNorm in training mode, which changes none of its statistics."""
    import keras
    import tensorflow as tf

    def call(values: Any) -> Sequence[Any]:
        for layer in network.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                mean, variance = tf.nn.moments(values, [0, 1, 2])
                values = tf.nn.batch_normalization(
                    values, mean, variance, layer.beta.value, layer.gamma.value, layer.epsilon
                )
            else:
                values = layer(values)
        return [values]

    return call, []
