"""The process that answers at the port."""
