"""What the processor of this machine can do, as far as the system tells."""

import re
from pathlib import Path

_INFO = Path("/proc/cpuinfo")
_QUICK_BFLOAT16 = {"avx512_bf16", "amx_bf16"}  # in x86's list


def features() -> list[str]:
    """The names of its instruction sets; empty where the system does not list them."""
    found = (
        re.search(r"^(?:flags|Features)\s*:(.*)", _INFO.read_text(), re.M)
        if _INFO.exists()
        else None
    )
    return found[1].split() if found else []


def multiplies_bfloat16() -> bool:
    """Whether it has instructions for sums of products of bfloat16.

    With them a product runs about twice as fast as in float32; without them it is several times
    slower.
    """
    return not _QUICK_BFLOAT16.isdisjoint(features())
