"""What people and scripts ask on the worker's host: ``health``, ``status``, ``drain`` and ``heal``.

These talk to a running worker through its status endpoint, signals and systemd. Only ``status --fleet`` needs the whole
configuration.
"""
