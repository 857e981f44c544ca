"""From a laptop to a running page on a server: the public commands, one after the other."""
