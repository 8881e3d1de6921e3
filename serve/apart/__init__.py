"""Brought models are run by a process apart, in a cell (contract/cell/): one for each artifact.

runtime.py     the service's side: starts the process, asks it, replaces it
child.py       the process itself
"""
