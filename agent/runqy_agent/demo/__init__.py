"""The demonstration: a Redis, a registration server and a Git repository of its own, and tasks flowing through them.

The parts are real enough that the project's tests and benchmarks use them too.
"""
