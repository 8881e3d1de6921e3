"""Readers: one a kind of file. Each reads it, and writes it as an artifact with the preprocessing in the graph."""
