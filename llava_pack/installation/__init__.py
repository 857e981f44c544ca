"""What is installed under a prefix: listed, checked, planned to be served, and removed."""
