"""Times what users of the Python client wait for, so many times, and prints a line of JSON for each figure."""

import json
import sys
import time
from importlib.metadata import version

from e2b import Sandbox


def timed(work):
    begun = time.perf_counter()
    result = work()
    return result, (time.perf_counter() - begun) * 1e3


def create_and_run():
    sandbox = Sandbox.create()
    assert sandbox.commands.run("echo hi").stdout == "hi\n"
    return sandbox


def main(samples):
    name = f"Python e2b {version('e2b')}"
    create_and_run().kill()  # what is cached afterwards
    both, run = [], []
    for _ in range(samples):
        sandbox, took = timed(create_and_run)
        both.append(took)
        run.append(timed(lambda: sandbox.commands.run("echo hi"))[1])
        sandbox.kill()
    print(json.dumps({"figure": f"{name}: create -> commands.run", "ms": both}))
    print(json.dumps({"figure": f"{name}: commands.run", "ms": run}))


main(int(sys.argv[1]))
