"""A bundle on its way over media: what each holds, and how it gets there."""
