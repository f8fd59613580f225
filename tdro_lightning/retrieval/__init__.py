"""Encoders, contrastive losses and search in plain torch."""
