"""Engines of the field as data: what each is installed from, started with and asked by."""
