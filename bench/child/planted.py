"""libFuzzer's process with a defect of the zoo in it: `fuzz.engines.libfuzzer_child`, with VMEMMAP_FUZZ_DEFECT planted.

Engines know nothing of the zoo; a race does.
"""

from __future__ import annotations

import os

from fuzz.engines import libfuzzer_child
from zoo import find, planted

if __name__ == "__main__":
    with planted(find(os.environ["VMEMMAP_FUZZ_DEFECT"])):
        libfuzzer_child.main()
