"""Where an artifact that fails its parity parts from its source, layer by layer, and why.

    python -m verify.diagnose keras_cnn tflite      or: make diagnose MODEL=keras_cnn FORMAT=tflite

`diagnosis` is the whole of it: `tracers/` run both models and keep what every layer computes; `match` pairs the layers
and finds the first place where they part; `causes` tests the known causes there, each by an experiment that can fail;
`show` writes the result as text, JSON and pictures.
"""
