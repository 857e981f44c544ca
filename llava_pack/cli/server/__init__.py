"""Commands of the server: install, serve, look after what is served."""
