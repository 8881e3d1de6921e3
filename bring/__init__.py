"""Bring your own model: a user's file takes the place of training and is converted to every format.

verdict/         what kind of file it is, and what it would do besides computing: judged from its bytes, loading nothing
options.py       what a user can set on the command line
description.py   what the user says about the file: in model.toml, or by these options
inputs.py        what the user says about the inputs, beside what the file says
rows.py          the user's own rows, from .npz or .csv
axes.py          which axis of each tensor is the batch: found by asking the model
lengths.py       the least sizes that the model computes with, where they are free: found in the same way
asking.py        whether a model answers inputs of some sizes, and whether the answer depends on them
probe.py         some rows that the model answers, to see what its answers look like
wrapping.py      from the file and the description: the pre- and post-processing to add around its graph
states.py        what people should know about a state that the file kept inside
readers/         one module for each kind of file: read it, and write it as an artifact with the wrapping in its graph
source.py        the steps above, in a process of their own: from a file to a source artifact
files_read.py    which of the user's files that process reads
workshop.py      the process that forks for each step of one model, so that each framework is loaded once
steps.py         what runs there: it loads the frameworks, forks, and ends what a step left running
neighbours.py    the files beside the model that belong to it, which the cell shows
data_folder.py   the questions for parity, from the user's pictures or rows
search.py        which route to try next, from what was tried and what parity said; it runs nothing
progress.py      what is being done now, and how long it will still take: on a terminal
walk.py          the whole of it: runs the source step and the steps of the search in the sandbox
publish.py       puts the result in its place, and knows when nothing changed
causes.py        known causes of failed conversions, and advice
words.py         what is printed, and what is recorded of a failed edge
"""
