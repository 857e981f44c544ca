"""The web page: files that a browser runs, and the facts that they ask for."""
