import type { Comparison } from '../comparison';

/** A part of the page, at `#name`. What follows a slash is the row that it is about: `#ship/keras_cnn-onnx@server`. */
export interface ViewProps {
  comparison: Comparison;
  row: string;
}
