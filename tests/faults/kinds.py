"""Which faults are tried on which command, and what does them."""

from tests.faults.changes import base, code, data, peer, second
from tests.faults.damage import damage, of_source
from tests.faults.losses import rate, spoiled
from tests.faults.moments import (
    at_a_moment,
    chain,
    device,
    frozen,
    local,
    on_a_small_disk,
    permission,
    read_only,
)

SIGNALS = ("kill", "term", "int", "term2", "int2", "stop")
DAMAGES = ("flip", "cut", "empty", "json", "remove", "halved")
EVERYWHERE = {
    **dict.fromkeys((*SIGNALS, "full", "power"), at_a_moment),
    "device": device,
    "failing": device,
    "permission": permission,
}
SOURCES = {f"source {kind}": of_source for kind in DAMAGES}
KINDS = {
    "train": {
        **EVERYWHERE,
        **dict.fromkeys(("back", "forth", "power+term", "kill+kill+kill"), at_a_moment),
        "chain": chain,
        "local": local,
        "tmpfs": on_a_small_disk,
        **dict.fromkeys(DAMAGES, damage),
        **dict.fromkeys(("worker", "frozen"), frozen),
        **{"second": second, "peer": peer, "local peer": peer, "code": code, "base": base},
        **{"nan": spoiled, "outlier": spoiled, "skip": spoiled, "rate": rate},
    },
    "export": {**EVERYWHERE, "readonly": read_only, **SOURCES},
    "prepare": {
        **EVERYWHERE,
        "readonly": read_only,
        "tmpfs": on_a_small_disk,
        **dict.fromkeys(DAMAGES, damage),
        **{"worker": frozen, "frozen": frozen, "data": data},
    },
    "evaluate": {**dict.fromkeys(("kill", "term", "int", "full"), at_a_moment), **SOURCES},
}
