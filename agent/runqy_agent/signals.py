"""Signals for a worker inside somebody else's program."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def stop_signals(stop: Callable[[], None]) -> Iterator[None]:
    """While it lasts, SIGTERM and SIGINT call ``stop``; then the program's own handlers are put back.

    Only the main thread may handle signals; in any other this does nothing.

    Args:
        stop: safe to call at any moment of the main thread.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    earlier = {
        signum: signal.signal(signum, lambda _signum, _frame: stop()) for signum in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for signum, handler in earlier.items():
            signal.signal(signum, signal.SIG_DFL if handler is None else handler)
