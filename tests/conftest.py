"""Hypothesis profiles: examples are random at a desk and the same every time in CI."""

import os

from hypothesis import settings

# No deadline: a slow shared machine is no bug of ours.
settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")
