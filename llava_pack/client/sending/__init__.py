"""A bundle on its way to a server: what is missing there, and how it gets there."""
