"""Running LLaVA: the port, loading, picture processing, templates and the step loop."""
