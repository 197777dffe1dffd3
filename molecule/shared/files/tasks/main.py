import os
import socket
import time

from runqy_python import load, run, task

VERSION = 1


@load
def setup():
    return {"host": socket.gethostname()}


@task
def echo(payload, ctx):
    time.sleep(payload.get("sleep", 0) if isinstance(payload, dict) else 0)
    if isinstance(payload, dict) and payload.get("die"):
        os._exit(payload["die"])
    if isinstance(payload, dict) and payload.get("look"):
        return {"environment": dict(os.environ), "uid": os.getuid(), "groups": os.getgroups()}
    return {"echo": payload, "host": ctx["host"], "version": VERSION}


if __name__ == "__main__":
    run()
