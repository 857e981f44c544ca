"""Requests that are computed together: rows of a cache, steps, tokens."""
