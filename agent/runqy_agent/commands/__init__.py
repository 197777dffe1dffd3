"""What people and scripts ask on a worker's host: ``status``, ``health``, ``logs``, ``drain``, ``redeploy``, ``heal``.

These talk to a running worker through its status endpoint, signals and systemd. Only ``status --fleet`` needs the whole
configuration.
"""
