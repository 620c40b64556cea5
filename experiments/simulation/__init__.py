"""A federation in one process: Flower's own apps over its wire format, without a network."""
