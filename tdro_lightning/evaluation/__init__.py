"""Retrieval benchmarks: loading, encoding, searching, scoring."""
