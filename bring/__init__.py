"""Bring your own model: a user's file takes the place of training and is converted to every format.

verdict/         what kind of file it is, and what code reading it would run: judged from its bytes, loading nothing
options.py       what a user can set on the command line
description.py   what the user says about the file: in model.toml, or by these options
wrapping.py      from the file and the description: the pre- and post-processing to add around its graph
readers/         one module for each kind of file: read it, and write it as an artifact with the wrapping in its graph
source.py        the steps above, in a process of their own: from a file to a source artifact
sandbox.py       that process: no network, another user, limits of memory and time
data_folder.py   the questions for parity, from the user's pictures
search.py        which route to try next, from what was tried and what parity said; it runs nothing
walk.py          the whole of it: runs the source step and the steps of the search in the sandbox
publish.py       puts the result in its place, and knows when nothing changed
causes.py        known causes of failed conversions, and advice
words.py         what is printed, and what is recorded of a failed edge
"""
