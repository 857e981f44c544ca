"""Bytes from outside into the content-addressed cache."""
