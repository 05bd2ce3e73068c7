"""Freed memory is kept by the process, where the C library supports that."""

from __future__ import annotations

import subprocess
import sys

import pytest

FAULTS = """
import resource
import numpy as np
from iqarena.bench.process import keep_freed_memory
{first}

def fill(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        several = [np.full(2**21, 1.0) for _ in range(4)]  # 16 MiB each, as activations are
        del several
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

fill(2)
print(fill(10))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_memory_that_was_freed_is_not_fetched_anew() -> None:
    """A process that keeps freed memory takes no new pages; one that does not faults in those of every array again."""

    def faults(first: str) -> int:
        code = FAULTS.format(first=first)
        return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)

    kept, usual = faults("keep_freed_memory()"), faults("")
    if usual < 100:
        pytest.skip("this C library keeps it by itself")
    assert kept < usual / 10
