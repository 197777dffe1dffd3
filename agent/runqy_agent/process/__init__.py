"""The task author's process: the protocol spoken with it, its start, supervision and end."""
