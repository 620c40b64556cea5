"""Models by name: one file each, see `study.model`."""
