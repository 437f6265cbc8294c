import os
import platform
import subprocess
import sys

import pytest

# Steps with a tensor larger than glibc ever keeps by itself; what the cheapest of the last ones fetches in pages: until
# the holes that it leaves have settled, some are fetched anew.
PROGRAM = """
import resource, torch
from convnets.training.memory import keep_freed_memory
kept = keep_freed_memory()
faults = []
for _ in range(40):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(20_000_000)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(kept, min(faults[5:]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.parametrize(("variables", "kept"), [({}, True), ({"MALLOC_ARENA_MAX": "2"}, False)])
def test_freed_memory_is_used_again_unless_the_user_tunes_it(variables, kept):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | variables
    finished = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    was_kept, faults = finished.stdout.split()
    assert was_kept == str(kept)
    assert (int(faults) < 100) == kept  # 80 MB are 20,000 pages
