"""Hypothesis profiles: examples are random at a desk and the same every time in CI. Ctrl-C, for tests that send it."""

import os
import signal

from hypothesis import settings

# No deadline: a slow shared machine is no bug of ours.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")

# A shell starts what a script runs in the background with SIGINT ignored, and a process hands that on to its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
