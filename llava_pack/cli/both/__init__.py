"""Commands of either side."""
