"""A model that somebody brought takes the place of training: its file becomes a source artifact.

verdict.py       what the file is, and what reading it would run: from its bytes, before anything is loaded
description.py   what is said of it beside the file: model.toml, or the command line
shape.py         from what the file tells and what is said of it: is it a picture, are the answers probabilities
keras.py, savedmodel.py, torch.py, onnx.py, tflite.py, tfjs.py
                 one a kind of file: `read` it, and `write` it as an artifact, with the preprocessing in the graph
__main__.py      the whole of it, in a process of its own
"""
