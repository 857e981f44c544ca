"""The gateway behind one port, the page, the supervisor, the tunnel."""
