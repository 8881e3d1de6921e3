"""Operators of TensorFlow that tf2onnx does not know, or translates otherwise than TensorFlow means them."""

from export import complementary_error, floor_division, selection, spectrum


def teach() -> None:
    """Have tf2onnx translate them as they are meant, from now on in this process."""
    floor_division.teach_tf2onnx()
    complementary_error.teach_tf2onnx()
    selection.teach_tf2onnx()
    spectrum.teach_tf2onnx()
