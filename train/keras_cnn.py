"""The classic CNN, in Keras. Read it beside `train/torch_cnn.py`: the same network, line by line.

python -m train.keras_cnn artifacts/keras_cnn/keras
"""

from pathlib import Path

import absl.logging
import keras
import tensorflow as tf

from contract.dataset import Split
from train.recipe import Progress, Recipe, Trained, accuracy, main

absl.logging.set_verbosity(absl.logging.ERROR)  # Keras warns that HDF5 is a legacy format, but people still have it


def build(shape: tuple[int, int, int], classes: int) -> keras.Model:
    """Pixels (N, H, W, C), float32, 0..255 -> probabilities (N, classes)."""
    return keras.Sequential(
        [
            keras.Input(shape, name="pixels"),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Conv2D(32, 3, activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Conv2D(16, 3, activation="relu"),
            keras.layers.MaxPooling2D(2),
            keras.layers.Flatten(),
            keras.layers.Dense(classes, activation="softmax", name="probabilities"),
        ]
    )


def train(recipe: Recipe, training: Split, test: Split, folder: Path) -> Trained:
    """Train, and write `model.h5` and the architecture as `model.json` into `folder`."""
    keras.utils.set_random_seed(recipe.seed)
    model = build(training.images.shape[1:], recipe.classes)
    count = len(training.images)
    rate = keras.optimizers.schedules.CosineDecay(recipe.learning_rate, recipe.steps(count))
    # A whole epoch is a single call of TensorFlow: with a call for each batch, Python takes a third of the time.
    batches = recipe.batches(count)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", steps_per_execution=batches)

    progress = Progress(recipe, "keras_cnn")
    for epoch in progress.epochs():
        order = recipe.order(epoch, count)
        model.fit(training.images[order], training.labels[order], recipe.batch_size, shuffle=False, verbose=0)

    answers = model.predict(test.images.astype("float32"), batch_size=1000, verbose=0)
    model.save(folder / "model.h5", include_optimizer=False)  # it would triple the file, and only training needs it
    (folder / "model.json").write_text(model.to_json(indent=2))
    return Trained(
        framework=f"Keras {keras.__version__} on TensorFlow {tf.__version__}",
        parameters=model.count_params(),
        epoch_seconds=progress.seconds,
        test_accuracy=accuracy(answers, test.labels),
    )


if __name__ == "__main__":
    main(train, "keras_cnn", "keras")
