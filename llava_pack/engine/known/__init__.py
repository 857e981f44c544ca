"""Known answers: their questions, and how they are recorded."""
