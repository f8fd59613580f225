"""Task-level distributionally robust optimisation (tDRO) for dense retrieval."""

__version__ = "0.1.0"
