"""Does an artifact still answer like its source?

parity.py       the gate: runs both on the same rows, compares their answers, and decides whether that passes
questions.py    those rows: a data set's test pictures, or the rows that `bring` made for a user's own model
precision/      reduced precisions: their classes, and what is really in their files
edges.py        the rows at the edges: zeros, huge numbers, other lengths
behaviour.py    do answers depend on other rows, on earlier calls or on chance?
second_process.py   what the source answers in another process: a number may be drawn when it is loaded
processor.py    the processor that this was seen on
samples.py      the pictures that the page offers, which are questions too
diagnose/       where an artifact that fails parts from its source, layer by layer, and why

`python -m verify MODEL` runs the gate for a model's folder and writes `parity.json` beside each manifest;
contract/parity_result.py reads that file, and says which artifacts are verified.
"""
