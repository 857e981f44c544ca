"""A checkpoint as a model that runs: weights, precision, placement."""
