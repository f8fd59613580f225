"""Rows, domains and batches: what the models are fed with."""
