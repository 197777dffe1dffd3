"""Serving tasks in-process: handlers by task type, and middleware around them."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, cast

import msgspec

from runqy_agent.clock import Clock

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runqy_agent.broker.message import TakenTask


class SkipRetry(Exception):  # noqa: N818  # asynq's name for it
    """Raise it from a handler to archive the task at once, whatever retries remain."""


class RevokeTask(Exception):  # noqa: N818  # asynq's name for it
    """Raise it from a handler to give the task up: it is neither tried again nor archived."""


class NoHandlerError(LookupError):
    """There is no handler for the type of a task."""


class ResultWriter:
    """Where a handler may put the task's result. What was written last counts, and it wins over a returned value."""

    def __init__(self, task_id: str) -> None:
        self.task_id = task_id
        self.data: bytes | None = None

    def write(self, data: bytes) -> int:
        """Set the result.

        Args:
            data: usually JSON.

        Returns:
            The number of bytes.
        """
        self.data = bytes(data)
        return len(data)


class Task:
    """A task as a handler sees it.

    Attributes:
        id: unique within its queue.
        type: what the client called it.
        payload: bytes, as the client sent them.
        queue: the sub-queue it came from.
        retried: retries used so far.
        max_retry: retries allowed.
        deadline: unix seconds, when the run is cut off, as the host's clock counts now.
        headers: asynq headers, mostly empty.
        result_writer: where its result may be put.
    """

    __slots__ = ("deadline", "headers", "id", "max_retry", "payload", "queue", "result_writer", "retried", "type")

    def __init__(self, taken: TakenTask) -> None:
        message = taken.message
        self.id: str = taken.id
        self.type: str = message.type
        self.payload: bytes = message.payload
        self.queue: str = taken.queue
        self.retried: int = message.retried
        self.max_retry: int = message.retry
        self.deadline: float = Clock().shown(taken.deadline)
        self.headers: Mapping[str, str] = dict(message.headers)
        self.result_writer = ResultWriter(taken.id)

    def json(self) -> Any:
        """The payload decoded from JSON.

        Raises:
            msgspec.DecodeError: it is no JSON.
        """
        return msgspec.json.decode(self.payload)


Handler = Callable[[Task], Awaitable[Any]]
"""Serves one task; what it returns is the task's result. An exception is its failure."""

Middleware = Callable[[Handler], Handler]
"""Wraps a handler into another one."""


class ServeMux:
    """Chooses the handler of a task by its type.

    A pattern matches the types that begin with it, and the longest matching pattern wins: ``email:`` serves
    ``email:send`` unless ``email:send`` has a handler of its own. (asynq's ServeMux does the same.)

    It is itself a handler, so one may serve a part of the types of another, with middleware of its own:
    ``worker.handle("email:", mux)``.
    """

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}
        self._default: Handler | None = None
        self._middleware: list[Middleware] = []

    def __bool__(self) -> bool:
        """Whether it has any handler."""
        return bool(self._handlers) or self._default is not None

    async def __call__(self, task: Task) -> Any:
        """Serve a task.

        Raises:
            NoHandlerError: no pattern matches its type, and there is no default.
        """
        handler = self.find(task.type)
        if handler is None:
            raise NoHandlerError(f"no handler for task type {task.type!r}")
        return await handler(task)

    def handle(self, pattern: str, handler: Callable[[Task], Any]) -> None:
        """Serve the types that begin with a pattern.

        Args:
            pattern: a type, or the beginning of types.
            handler: a coroutine function, or a plain function, which is run in a thread.

        Raises:
            ValueError: the pattern is empty or has a handler already.
        """
        if not pattern.strip():
            raise ValueError("a pattern cannot be empty; use handle_default for all other types")
        if pattern in self._handlers:
            raise ValueError(f"there is a handler for {pattern!r} already")
        self._handlers[pattern] = _as_coroutine_function(handler)

    def handle_default(self, handler: Callable[[Task], Any]) -> None:
        """Serve every type that no pattern matches."""
        self._default = _as_coroutine_function(handler)

    def use(self, *middleware: Middleware) -> None:
        """Put middleware around all handlers; the first one given is the outermost."""
        self._middleware.extend(middleware)

    def find(self, task_type: str) -> Handler | None:
        """The handler for a type, with the middleware around it; None if there is none."""
        matching = [pattern for pattern in self._handlers if task_type.startswith(pattern)]
        handler = self._handlers[max(matching, key=len)] if matching else self._default
        if handler is None:
            return None
        for wrap in reversed(self._middleware):
            handler = wrap(handler)
        return handler


def _as_coroutine_function(handler: Callable[[Task], Any]) -> Handler:
    if inspect.iscoroutinefunction(handler) or inspect.iscoroutinefunction(getattr(handler, "__call__", None)):  # noqa: B004
        return cast("Handler", handler)

    async def in_thread(task: Task) -> Any:
        return await asyncio.to_thread(handler, task)

    return in_thread


class HandlerTable:
    """What is served by functions of this very program: the part of a worker that its user fills."""

    def __init__(self) -> None:
        self._mux = ServeMux()

    def handle(self, pattern: str, handler: Callable[[Task], Any]) -> None:
        """Serve the task types that begin with ``pattern``; see ``ServeMux.handle``."""
        self._mux.handle(pattern, handler)

    def handle_default(self, handler: Callable[[Task], Any]) -> None:
        """Serve the task types that no pattern matches."""
        self._mux.handle_default(handler)

    def use(self, *middleware: Middleware) -> None:
        """Put middleware around all handlers, the first one outermost."""
        self._mux.use(*middleware)
