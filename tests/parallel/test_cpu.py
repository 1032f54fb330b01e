"""What the processor can do."""

import pytest

from onediff_jax.parallel import cpu


@pytest.mark.parametrize(
    "listed, names, quick",
    [
        ("model name\t: A\nflags\t\t: fpu avx2 avx512_bf16\nbugs\t: x\n", 3, True),
        ("flags\t\t: fpu amx_bf16 amx_tile\n", 3, True),
        ("flags\t\t: fpu avx2 avx512f\n", 3, False),
        ("Features\t: fp asimd\n", 2, False),
        ("nothing of the kind\n", 0, False),
        (None, 0, False),
    ],
)
def test_features(tmp_path, monkeypatch, listed, names, quick):
    info = tmp_path / "cpuinfo"
    if listed is not None:
        info.write_text(listed)
    monkeypatch.setattr(cpu, "_INFO", info)
    assert len(cpu.features()) == names and cpu.multiplies_bfloat16() == quick
