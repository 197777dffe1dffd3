"""The task protocol between the agent and the supervised process: one JSON object a line, both ways."""

from __future__ import annotations

import base64
import json
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, Raw, Struct

from runqy_agent.outcome import Failure, Success
from runqy_agent.process.lines import BEGINS_OBJECT, NAMES_TASK, task_named_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from runqy_agent.broker.message import TakenTask


class UnsendablePayloadError(ValueError):
    """The payload cannot be given to a process."""


class TaskLine(Struct, omit_defaults=True):
    """A task as the process reads it. The field order is the order on the line."""

    task_id: str
    type: str
    payload: Raw | str
    retry_count: int
    max_retry: int
    queue: str
    payload_encoding: str | None = None
    headers: dict[str, str] | None = None


class Ready(Struct, frozen=True):
    """The process can take tasks."""


class StartFailed(Struct, frozen=True):
    """The process says that it cannot start."""

    error: str


class Response(Struct, gc=False):
    """The answer to one task.

    Attributes:
        result: JSON, as the process wrote it.
        error: None for success; never empty.
        retry: whether trying again may help.
    """

    task_id: str
    result: bytes | None
    error: str | None
    retry: bool

    def outcome(self) -> Success | Failure:
        """How the task's run ended, by this answer."""
        return Success(self.result) if self.error is None else Failure(self.error, retry=self.retry)


class _Answer(Struct, gc=False):
    """An answer, if it has a ``result`` (not empty) or an ``error`` (not UNSET). Any other field is ignored."""

    task_id: str
    result: Raw = Raw(b"")
    error: Any = UNSET
    retry: bool = False


class _ReadyLine(Struct, forbid_unknown_fields=True):
    status: Literal["ready"]


class _StartFailedLine(Struct, forbid_unknown_fields=True):
    status: Literal["error"]
    error: str


class _ProgressLine(Struct, forbid_unknown_fields=True):
    task_id: str
    progress: Annotated[float, Meta(ge=0, le=1)]
    message: str | None = None


_TOO_DEEP = "the process gave an answer that is nested too deeply to be read"
_UNREADABLE = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
_NO_RESULT = (b"", b"null")
_MOST_DIGITS = 4000
"""Of an integer. Python itself refuses to read or write more than 4300, since that takes long."""

_encoder = msgspec.json.Encoder()
_raw_decoder = msgspec.json.Decoder(Raw)
_answer_decoder = msgspec.json.Decoder(_Answer)
_ready_decoder = msgspec.json.Decoder(_ReadyLine)
_start_failed_decoder = msgspec.json.Decoder(_StartFailedLine)
_progress_decoder = msgspec.json.Decoder(_ProgressLine)


def encode_task(task: TakenTask) -> bytes:
    """Write a task as one line, with its line break.

    Raises:
        UnsendablePayloadError: the payload is nested so deeply that a process could not read it, or the task cannot be
            written for a reason that nobody has thought of.
    """
    try:
        return _encode(task)
    except UnsendablePayloadError:
        raise
    except Exception as error:
        raise UnsendablePayloadError(
            f"the task cannot be written as a line: {type(error).__name__}: {error}"
        ) from error


def _encode(task: TakenTask) -> bytes:
    payload, encoding = encode_payload(task.payload)
    message = task.message
    headers: Mapping[str, str] = message.headers
    line = TaskLine(
        task_id=task.id,
        type=message.type,
        payload=payload,
        retry_count=message.retried,
        max_retry=message.retry,
        queue=task.queue,
        payload_encoding=encoding,
        headers=dict(headers) if headers else None,
    )
    return _encoder.encode(line) + b"\n"


def encode_payload(payload: bytes) -> tuple[Raw | str, str | None]:
    """Decide how a payload travels.

    Returns:
        JSON as it is, without the line breaks between its tokens; other UTF-8 text as a string; anything else as
        base64 text with the encoding's name.

    Raises:
        UnsendablePayloadError: JSON nested too deeply.
    """
    try:
        text = None if payload.isascii() else payload.decode("utf-8")
    except UnicodeDecodeError:
        return base64.b64encode(payload).decode("ascii"), "base64"
    if _is_json(payload):
        if b"\n" in payload or b"\r" in payload:
            payload = payload.translate(None, b"\r\n")  # valid JSON has them between tokens only
        return Raw(payload.strip()), None
    return text if text is not None else payload.decode("ascii"), None


def _is_json(payload: bytes) -> bool:
    try:
        _raw_decoder.decode(payload)
    except msgspec.DecodeError:
        # msgspec is stricter in one point: it refuses \ud800, half a surrogate pair, which is correct JSON.
        return b"\\u" in payload and _is_json_by_the_book(payload)
    except RecursionError:
        raise UnsendablePayloadError("the payload is JSON nested too deeply to be read") from None
    return True


def _is_json_by_the_book(payload: bytes) -> bool:
    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        json.loads(payload.decode("utf-8"), parse_constant=refuse)  # given bytes, it would accept UTF-16 and a BOM too
    except (ValueError, RecursionError):
        return False
    return True


def decode_start(line: bytes) -> Ready | StartFailed | None:
    """Understand a line that a process writes before it is ready.

    Returns:
        What it says, or None if it has neither of the two forms exactly: then it is printing.
    """
    with suppress(*_UNREADABLE):
        _ready_decoder.decode(line)
        return Ready()
    with suppress(*_UNREADABLE):
        return StartFailed(_start_failed_decoder.decode(line).error or "the process gave no reason")
    return None


def decode_answer(line: bytes) -> Response | None:
    """Understand a line that is one JSON object with ``task_id`` and at least one of ``result`` and ``error``.

    Returns:
        The answer, or None if it is none: then it is printing.
    """
    if NAMES_TASK not in line:
        return None  # most of what is printed
    try:
        parsed = _answer_decoder.decode(line)
        result = bytes(parsed.result)
        if result and not result.isascii():
            result.decode("utf-8")  # the decoder has not looked into it
    except _UNREADABLE:
        lenient = _decode_leniently(line)
        if lenient is None:
            return None
        parsed, result = lenient
    if not result and parsed.error is UNSET:
        return None
    return Response(
        parsed.task_id, None if result in _NO_RESULT else result, _error_text(parsed.error) or None, parsed.retry
    )


def progressing_task(line: bytes) -> str | None:
    """The task that the line tells the progress of, if that is all it does."""
    if NAMES_TASK in line:
        with suppress(*_UNREADABLE):
            return _progress_decoder.decode(line).task_id
    return None


def _error_text(error: Any) -> str | None:
    if error is None or error is UNSET:
        return None
    if isinstance(error, str):
        return error
    try:
        return json.dumps(error, ensure_ascii=False)
    except RecursionError:
        return "the process gave an error that is nested too deeply to be shown"


def _decode_leniently(line: bytes) -> tuple[_Answer, bytes] | None:
    """Understand what is written beyond the standard: NaN, Infinity, half surrogate pairs, bytes that are not UTF-8.

    The process meant it as an answer, and its task would wait for ever if it were taken for printing. In the result
    NaN and the infinities become null, and wrong bytes replacement characters, since no other reader of the result
    would accept them. Integers of thousands of digits become text. What is nested too deeply to be read at all is a
    failure of the task that the line names.
    """
    if not BEGINS_OBJECT.match(line):
        return None
    try:
        parsed = json.loads(
            line.decode("utf-8", "replace"),
            parse_constant=lambda _: None,
            parse_float=_finite,
            parse_int=_readable,
        )
        if not isinstance(parsed, dict) or not isinstance(parsed.get("task_id"), str):
            return None
        text = json.dumps(parsed["result"], separators=(",", ":")).encode() if "result" in parsed else b""
    except RecursionError:
        task_id = task_named_in(line)
        return None if task_id is None else (_Answer(task_id, error=_TOO_DEEP), b"")
    except ValueError:
        return None
    return _Answer(parsed["task_id"], error=parsed.get("error", UNSET), retry=parsed.get("retry") is True), text


def _readable(text: str) -> int | str:
    return int(text) if len(text) <= _MOST_DIGITS else text


def _finite(text: str) -> float | None:
    number = float(text)
    return number if math.isfinite(number) else None
