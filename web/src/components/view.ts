import type { Comparison } from '../comparison';

/** What each view gets. A view is at `#name`; a row may follow after a slash: `#ship/keras_cnn-onnx@server`. */
export interface ViewProps {
  comparison: Comparison;
  row: string;
}
