"""Observers of a run: deleting one changes no number."""
