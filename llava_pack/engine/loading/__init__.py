"""How a model comes into memory."""
