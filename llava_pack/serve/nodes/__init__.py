"""Several machines that hold one model: how they find each other, and how they start and end it."""
