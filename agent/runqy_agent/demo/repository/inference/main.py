"""Is a review kind or not? A long-running queue: the model is loaded once, then tasks come one after the other."""

import os
import time

from runqy_python import RetryableError, load, run, task

KIND = {"good", "great", "lovely", "wonderful", "delicious", "friendly"}
UNKIND = {"bad", "cold", "slow", "rude", "noisy", "awful", "never"}


@load
def load_model():
    # Libraries written in C print past Python. It does no harm: such lines end up in the worker's log.
    os.write(1, b"libmodel 1.4: using 1 thread\n")
    time.sleep(0.5)  # a real model takes longer
    return {"kind": KIND, "unkind": UNKIND, "asked_before": set()}


@task
def judge(payload, model):
    text = payload["text"]
    print(f"judging {text!r}")  # goes to the log as well
    if not text:
        raise ValueError("there is nothing to judge: the text is empty")
    if "source" in payload:
        fetch(payload["source"], model)
    time.sleep(0.04)  # thinking
    words = text.lower().replace(",", " ").split()
    points = sum((word in model["kind"]) - (word in model["unkind"]) for word in words)
    label = "kind" if points > 0 else "unkind" if points < 0 else "undecided"
    return {"label": label, "points": points, "words": len(words)}


def fetch(source, model):
    """Stands for a service that the task depends on. RetryableError says: this may work later."""
    if source == "unreachable":
        raise RetryableError(f"{source} does not answer")
    if source not in model["asked_before"]:
        model["asked_before"].add(source)
        raise RetryableError(f"{source} does not answer yet")


if __name__ == "__main__":
    run()
