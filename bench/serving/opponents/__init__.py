"""Other servers for the same model: small programs, each as its framework's documentation recommends.

Each runs in an environment of its own (its versions are in the `.txt` file of the same name), with MODEL, the path of
a `.onnx` file; NAME, the served model's name; PORT; and WORKERS in its environment. All use the same session.
"""
