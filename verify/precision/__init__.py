"""Reduced precisions: what is kept of the source's answers, and what is really in the file.

gate.py     the classes: how much of the source's accuracy an artifact keeps, with an interval
ledger.py   the ledger: dtypes, bytes, and what computes in them, as the file and the runtime say
files/      how each format's file is read for that
losses.py   which classes and which layers lose most
proof.py    are the quantised weights those of the parent?
"""
