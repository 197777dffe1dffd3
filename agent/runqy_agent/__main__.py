"""``python -m runqy_agent``: the same as the ``runqy-agent`` command."""

from __future__ import annotations

import sys

from runqy_agent.cli import main

if __name__ == "__main__":
    sys.exit(main())
