"""Encoders, objectives, optimisation: from shards to a trained encoder."""
