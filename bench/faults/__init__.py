"""Faults planted into artifacts that still load: is each closed by the parity gate, and named by the diagnosis?

python -m bench.faults [--only NAME ...] [--write docs/faults.md]        or: make faults

bases.py        the healthy models: the project's own two, one of coloured pictures, one of numbers
faults.py       the table of faults, a line for each
plants.py       the ways to plant: a copy of a healthy artifact is changed, and its manifest made to fit again
graphs.py       what is changed in ONNX graphs
networks.py     faulty networks and functions that the project's own exporters then convert faithfully
files.py        what is changed in manifests and in the files of TF Lite and TF.js
outcome.py      one fault through the gate and the diagnosis
"""
