"""The loops of a running worker: one file each, all with the same start and stop."""
