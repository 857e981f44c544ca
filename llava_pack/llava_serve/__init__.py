"""LLaVA's own `llava.serve`: its three programs, started in order, guarded, and asked."""
