"""What talks to a server: conversations, and what comes back."""
