"""The cluster: scripts of the engine, the link to it, and the rules of a node."""
