"""What the demo plays: the queues as the server describes them, the tasks, and how each of them should end."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runqy_agent.demo.client import TaskInfo, message
from runqy_agent.demo.registration_server import QueueDefinition

if TYPE_CHECKING:
    from runqy_agent.broker.asynq_pb2 import TaskMessage

ENDED = frozenset({"completed", "archived"})
"""States in which nothing more happens to a task."""

HIGH, LOW, THUMBNAILS = "inference.high", "inference.low", "thumbnails.default"

_REVIEWS = (
    "The soup was delicious, the waiter friendly",
    "Never again",
    "A lovely evening, we will come again",
    "Cold food, slow service, and a noisy room",
    "It was a restaurant",
    "Wonderful bread, great coffee",
    "The waiter was rude",
    "Good, good, good",
    "An awful Tuesday, but great cake",
    "We had the fish",
)
_PICTURES = (
    ("beach.jpg", 4000, 3000),
    ("logo.png", 512, 512),
    ("panorama.jpg", 9000, 1500),
    ("portrait.jpg", 2000, 3000),
    ("icon.png", 16, 16),
    ("receipt.jpg", 800, 2400),
)


@dataclass(frozen=True)
class Job:
    """A task and what should become of it.

    Attributes:
        message: the task.
        ends: the state it should end in.
        retried: how many retries that should take.
        mention: a piece of the result or of the error.
    """

    message: TaskMessage
    ends: str = "completed"
    retried: int = 0
    mention: str = ""

    def as_expected(self, info: TaskInfo) -> bool:
        """Whether the task has ended the way it should."""
        return (
            info.state == self.ends
            and info.message.retried == self.retried
            and self.mention in (info.message.error_msg if info.state == "archived" else _text(info.result))
        )


def queues(git_url: str) -> list[QueueDefinition]:
    """The two queues as a runqy server knows them.

    Args:
        git_url: the repository with the sample tasks.
    """

    def deployment(code_path: str, mode: str) -> dict[str, object]:
        return {
            "git_url": git_url,
            "branch": "main",
            "code_path": code_path,
            "startup_cmd": "python main.py",
            "startup_timeout_secs": 30,
            "mode": mode,
            "redis_storage": True,
        }

    return [
        QueueDefinition("inference", deployment("inference", "long_running"), {HIGH: 9, LOW: 3}),
        QueueDefinition("thumbnails", deployment("thumbnails", "one_shot")),
    ]


def jobs() -> list[Job]:
    """The tasks, in the order in which they are enqueued: most succeed, some fail in each of the ways there are."""
    return [
        *(_review(HIGH, number, text) for number, text in enumerate(2 * _REVIEWS, start=1)),
        *(_review(LOW, number, text) for number, text in enumerate(_REVIEWS, start=1)),
        *(_picture(*picture) for picture in _PICTURES),
        Job(
            _task(HIGH, "review-empty", {"text": ""}), ends="archived", mention="ValueError: there is nothing to judge"
        ),
        *(
            Job(
                _task(queue, f"review-{source}", {"text": "Good, when it came", "source": source}),
                retried=1,
                mention='"kind"',
            )
            for queue, source in ((HIGH, "archive"), (LOW, "mirror"))
        ),
        Job(
            _task(LOW, "review-lost", {"text": "Good", "source": "unreachable"}, max_retry=1),
            ends="archived",
            retried=1,
            mention="unreachable does not answer",
        ),
        Job(
            _task(THUMBNAILS, "thumbnail-drawing", {"name": "drawing.svg", "width": 10, "height": 10}),
            ends="archived",
            mention="UnknownFormatError: drawing.svg",
        ),
        Job(
            _task(THUMBNAILS, "thumbnail-negative", {"name": "negative.raw", "width": 10, "height": 10}, max_retry=0),
            ends="archived",
            mention="code 3",
        ),
    ]


def _review(queue: str, number: int, text: str) -> Job:
    return Job(_task(queue, f"review-{queue.rpartition('.')[2]}-{number:02}", {"text": text}), mention='"label"')


def _picture(name: str, width: int, height: int) -> Job:
    stem = name.partition(".")[0]
    payload = {"name": name, "width": width, "height": height}
    return Job(_task(THUMBNAILS, f"thumbnail-{stem}", payload), mention=f"{stem}-small.png")


def _task(queue: str, task_id: str, payload: dict[str, object], *, max_retry: int = 3) -> TaskMessage:
    return message(queue, json.dumps(payload).encode(), task_id=task_id, max_retry=max_retry, timeout=20)


def _text(result: bytes | None) -> str:
    return (result or b"").decode(errors="replace")
