"""How a run starts, anywhere; knows nothing of images."""
