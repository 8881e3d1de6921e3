"""Bring your own model: a user's file takes the place of training, and goes on to every format.

verdict/         what the file is, and what reading it would run: from its bytes, before anything is loaded
description.py   what the user says about it: model.toml, or the command line
wrapping.py      from both: is the input a picture, are the answers probabilities, what is added around the graph
readers/         one a kind of file: read it, and write it as an artifact, with the preprocessing in the graph
source.py        the steps above, in a process of their own
sandbox.py       that process: no network, another user, limits
data_folder.py   the user's pictures, as questions for parity
walk.py          the whole of it: source artifact, exports by every route, parity, what is kept
causes.py        why an edge failed, in words
"""
