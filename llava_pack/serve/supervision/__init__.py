"""The process that starts engines and gateways, and looks after them."""
