"""Bytes to batches: shards, the exact order, the stream. Takes rank and world as integers."""
