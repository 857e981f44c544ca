"""What crosses the gap on media: which files on which, and what repairs them on the other side."""
