"""One table of settings: the docs page is written from it, and nothing else holds a default."""

import re
from pathlib import Path

from onediff_jax.experiment.field import REQUIRED
from onediff_jax.experiment.schema import (
    BY_PATH,
    FIELDS,
    OPTIONAL_SECTIONS,
    SECTIONS,
    is_free,
    table,
)

ROOT = Path(__file__).parents[2]


def test_the_docs_page_is_the_table():
    page = (ROOT / "docs" / "settings.md").read_text(encoding="utf-8")
    assert page == table(), "python -m onediff_jax.experiment.schema > docs/settings.md"


def test_every_field_once():
    assert len(BY_PATH) == len(FIELDS)
    assert {field.section for field in FIELDS} == set(SECTIONS)


def test_what_older_runs_meant_is_allowed():
    """None where None may be; else a value of the field's type."""
    types = {"int": int, "float": float, "bool": bool, "str": str, "weights": dict, "tasks": dict}
    for field in FIELDS:
        if field.lacking is REQUIRED:
            continue
        if field.lacking is None:
            assert field.none or field.section in OPTIONAL_SECTIONS, field.path
        else:
            assert isinstance(field.lacking, types.get(field.kind, tuple)), field.path


def test_what_may_change_between_two_starts():
    """Nothing that changes a number of the training."""
    free = ["log.guidance", "checkpoint.every_steps", "mesh.fsdp", "model.unroll", "data.folders"]
    fixed = ["optim.b2", "data.tasks.faceid", "rows", "lora.rank", "lora", "data.scenes", "seed"]
    assert all(map(is_free, free)) and not any(map(is_free, fixed))
    assert not [f.path for f in FIELDS if f.free and f.section in ("flow", "optim", "train")]


def test_no_default_is_read_elsewhere():
    sections = "|".join(name for name in SECTIONS if name not in ("", "data"))
    read = re.compile(rf"\b(config|config\.data|(config\.)?({sections}))\.get\(\"")
    # Other files called config: those of published weights.
    others = ("models/t5.py", "models/autoencoder.py", "torch_files/flow_torch.py")
    found = [
        f"{file.relative_to(ROOT)}: {line.strip()}"
        for file in sorted((ROOT / "onediff_jax").rglob("*.py"))
        for line in file.read_text(encoding="utf-8").splitlines()
        if read.search(line) and not str(file).endswith(others)
    ]
    allowed = "experiment/checks.py", 'config.get("lora")', 'config.get("init_from")'
    assert [line for line in found if not any(part in line for part in allowed)] == []
