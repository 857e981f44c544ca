"""How the laptop reaches the world: whose certificates it believes, and through which proxy."""
