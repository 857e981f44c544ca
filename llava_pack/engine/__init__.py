"""The engine: its port, prompts, pictures, the step loop over slots, and the worker process."""
