"""Starts Python's Jupyter kernel, made ready for the results that clients of the code interpreter read."""

import sys

# Importing the debugger takes a tenth of the start, and nobody could reach it.
sys.modules["debugpy"] = None
from ipykernel.kernelapp import IPKernelApp  # noqa: E402
from traitlets.config import Config  # noqa: E402

del sys.modules["debugpy"]
import atoll_display  # noqa: E402

# The directory of this file is nobody else's to import from; IPython puts the working directory there.
del sys.path[0]


def main():
    config = Config()
    # There is no terminal that could look at it, and each cell would wait for a disk.
    config.HistoryManager.enabled = False
    app = IPKernelApp.instance(config=config)
    # What comes after the connection file is for those who look for the process.
    app.initialize(sys.argv[1:3])
    atoll_display.install(app.shell)
    app.start()


main()
