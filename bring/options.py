"""What a user can set for a model on the command line: the one list, for `python -m bring`, make and docker/build.

python -m bring.options      prints the names, such as `name labels data`
"""

OPTIONS = {
    "name": "what to call the model (default: the file's name)",
    "labels": "a text file with one label a line, in the order of the model's outputs",
    "data": "a folder of pictures with one subfolder for each class",
    "preprocess": "how pixels become the input: a preset such as unit, or settings such as scale=1/255 mean=0.5",
    "kind": "what the model takes, where that is open: pictures or tensors",
    "arch": "module:callable, or module:callable(3), that builds the network, for a file that holds only weights",
    "arch-path": "a folder in which Python finds what ARCH names, such as a package's site-packages",
    "answers": "what the model answers: probabilities, logits or values",
    "trust": "1: read the file even if that runs code in it",
}
"""Name -> help. As variables of make the names are in capitals. bring/description.py says more about each."""

PATHS = ("labels", "data", "arch-path")
"""Those whose value is a path."""

if __name__ == "__main__":
    print(*OPTIONS)
