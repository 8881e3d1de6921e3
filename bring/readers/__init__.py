"""Readers: one module for each kind of file. Each reads it, and writes it as an artifact with its wrapping inside."""
