"""Folders of MLflow: the model in them that is of a kind of ours. Nothing of MLflow is read or run."""

from pathlib import Path

from bring.verdict.findings import few
from contract.errors import BroughtError

MARKS = ("saved_model.pb", "*.keras", "*.h5", "*.onnx", "*.tflite", "*.pt2")
PICKLES = ("*.pkl", "*.pickle", "*.pth", "*.pt", "*.joblib", "*.cloudpickle")


def model_in(folder: Path) -> Path:
    """The file or folder in an MLflow folder that holds the model. Raises BroughtError where there is none."""
    files = [path for mark in MARKS for path in sorted(folder.rglob(mark)) if path.is_file()]
    # MLflow writes the weights and the configuration of a Keras model beside its SavedModel.
    models = [path.parent if path.name == "saved_model.pb" else path for path in files]
    if models:
        return models[0]
    pickles = [str(path.relative_to(folder)) for mark in PICKLES for path in sorted(folder.rglob(mark))]
    seems = f"whose model is a pickle ({few(pickles, 3)}): reading it runs what it says" if pickles else "without one"
    raise BroughtError(
        f"{folder} is an MLflow folder {seems}. Where the model is, log it as what computes: "
        '`mlflow.onnx.log_model(onnx_model, "model")`, or mlflow.tensorflow or mlflow.keras, and bring that folder.'
    )
