"""Retrieval benchmarks: loading, encoding, searching, scoring."""

LAYOUTS = ("beir", "miracl", "mkqa")
