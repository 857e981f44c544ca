"""How the gateway and the supervisor ask an engine, whichever it is."""
