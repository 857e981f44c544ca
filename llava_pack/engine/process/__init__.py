"""The engine as a process of its own: its protocol, its server, its client."""
