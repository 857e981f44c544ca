"""Which wheels, which Python and which revisions a target gets."""
