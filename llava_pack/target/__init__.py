"""What runs on the target before any venv exists: stdlib only, and llava_pack.format."""
