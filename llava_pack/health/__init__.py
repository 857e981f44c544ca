"""Proof that an installed model sees."""
