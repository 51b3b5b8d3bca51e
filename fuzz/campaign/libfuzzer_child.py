"""libFuzzer's process in a campaign: `fuzz.engines.libfuzzer_child`, with what the campaign plants.

Engines know nothing of the zoo; a campaign does.
"""

from __future__ import annotations

import os

from fuzz.campaign.slices import DEFECT, REFERENCE, defects
from fuzz.engines import libfuzzer_child
from zoo import reference_version, version

if __name__ == "__main__":
    with reference_version(version(os.environ[REFERENCE]), *defects(os.environ[DEFECT])):
        libfuzzer_child.main()
