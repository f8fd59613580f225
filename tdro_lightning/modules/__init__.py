"""Thin LightningModules: they put the core's functions in order and log."""
