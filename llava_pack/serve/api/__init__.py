"""The API of the gateway: its routes, and their one way to a model."""
