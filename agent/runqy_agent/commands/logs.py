"""``runqy-agent logs``: what the supervised processes of a running worker print."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Any

from runqy_agent.escaping import escape, to_json

if TYPE_CHECKING:
    from collections.abc import Iterator

    from runqy_agent.commands.endpoint import Endpoint, Output

POLL_SECONDS = 1.0
ALL = 500
"""More lines than this no worker keeps."""


def show_logs(endpoint: Endpoint, lines: int, queue: str, *, follow: bool, as_json: bool) -> None:
    """Print the newest lines, and with ``follow`` those that come until Ctrl-C.

    Raises:
        RunqyAgentError: no worker answers.
    """
    first = endpoint.output(lines, queue=queue)
    if first is None:
        raise endpoint.silent()
    if as_json and not follow:
        print(to_json(first, ascii_only=True))
        return
    try:
        _show(first, as_json=as_json)
        if follow:
            for more in _more(endpoint, queue, first):
                _show(more, as_json=as_json)
    except KeyboardInterrupt:
        return
    except BrokenPipeError:  # whoever read it has had enough; nothing must be written any more, also not at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _more(endpoint: Endpoint, queue: str, last: Output) -> Iterator[Output]:
    """What is printed from now on, also by a worker that takes the place of this one."""
    worker_id, after = last["worker_id"], _newest(last, 0)
    while True:
        time.sleep(POLL_SECONDS)
        found = endpoint.output(ALL, after, queue)
        if found is not None and found["worker_id"] != worker_id:  # its lines are numbered anew
            print(escape(f"worker {found['worker_id']} has taken over"), file=sys.stderr, flush=True)
            worker_id, after = found["worker_id"], 0
            found = endpoint.output(ALL, after, queue)
        if found is not None and found["worker_id"] == worker_id:
            after = _newest(found, after)
            yield found


def _newest(found: Output, before: int) -> int:
    return max((line["seq"] for line in found["lines"]), default=before)


def _show(found: Output, *, as_json: bool) -> None:
    for line in found["lines"]:
        print(to_json(line, ascii_only=True) if as_json else as_text(line))
    sys.stdout.flush()


def as_text(line: dict[str, Any]) -> str:
    """A line for people."""
    at = time.strftime("%H:%M:%S", time.localtime(line["ts"] / 1000))
    return escape(f"{at} {line['queue']} {line['src']}| {line['text']}")
