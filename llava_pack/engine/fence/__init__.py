"""What a process that serves may still open, make and reach, held by the kernel."""
