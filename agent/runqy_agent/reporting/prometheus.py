"""The status as metrics for Prometheus."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from runqy_agent.escaping import escape

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from runqy_agent.reporting.status import Status

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class _StatusCollector(Collector):
    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        """The metrics, in the order in which they are shown."""
        status = self._status
        build = InfoMetricFamily("runqy_agent_build", "The version of the agent")
        build.add_metric([], {"version": status["version"]})
        yield build
        yield _gauge("up", "Whether the worker runs and every queue can be served", status["healthy"])
        yield _gauge("draining", "Whether it takes no tasks on purpose", status["status"] == "draining")
        yield _gauge("start_time_seconds", "When it started, unix seconds", status["started_at"])
        yield _gauge("concurrency", "Tasks that it may hold at once", status["concurrency"])
        yield _gauge("tasks_running", "Tasks that it holds", status["running"])
        ended = CounterMetricFamily("runqy_agent_tasks", "Tasks that have ended, by outcome", labels=["outcome"])
        for outcome, number in status["tasks"].items():
            ended.add_metric([outcome], number)
        yield ended
        if status["redis"]["last_beat"] is not None:
            yield _gauge("last_beat_seconds", "When Redis took its last heartbeat", status["redis"]["last_beat"])
        if status["clock_offset"] is not None:
            yield _gauge("clock_offset_seconds", "How far the host's clock is ahead of Redis'", status["clock_offset"])
        if status["redeploy"] is not None:
            yield _gauge("redeploying", "Whether it goes over to new code", status["redeploy"]["running"])
        yield from _of_queues(status)


def _of_queues(status: Status) -> Iterator[Metric]:
    ready = _by_queue("process_ready", "Whether the process takes tasks")
    stale = _by_queue("process_stale", "Whether it serves other code than it should")
    number = _by_queue("processes", "Processes that are alive")
    memory = _by_queue("process_memory_bytes", "Resident memory of its processes and their children")
    restarts = CounterMetricFamily("runqy_agent_process_restarts", "Restarts after a crash", labels=["queue"])
    dropped = CounterMetricFamily(
        "runqy_agent_dropped_responses", "Answers to tasks that were not in flight", labels=["queue"]
    )
    for name, process in status["processes"].items():
        queue = escape(name)
        ready.add_metric([queue], float(process["state"] == "ready"))
        stale.add_metric([queue], float(process["stale"]))
        number.add_metric([queue], sum(each["pid"] != 0 for each in process["processes"]))
        memory.add_metric([queue], sum(each["memory"] for each in process["processes"]))
        restarts.add_metric([queue], process["total_restarts"])
        dropped.add_metric([queue], process["dropped_responses"])
    yield from (ready, stale, number, memory, restarts, dropped)


def _by_queue(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"runqy_agent_{name}", text, labels=["queue"])


def _gauge(name: str, text: str, value: Any) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"runqy_agent_{name}", text, value=float(value))


def metrics(status: Status) -> bytes:
    """The metrics in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_StatusCollector(status))
    return generate_latest(registry)
