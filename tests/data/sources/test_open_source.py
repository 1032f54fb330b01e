"""docs/data.md and open_source agree."""

import inspect
import re
from pathlib import Path

import pytest

from onediff_jax.data.sources import FORMATS, REASONS, open_source
from onediff_jax.data.sources.records import NAMES

PAGE = Path(__file__).parents[3].joinpath("docs", "data.md").read_text()


def test_the_page_names_every_format_and_reason():
    assert re.findall(r"^### (\w+)$", PAGE, re.MULTILINE) == list(FORMATS)
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", PAGE, re.MULTILINE)
    assert [row for row in rows if row[0] in REASONS] == list(REASONS.items())
    for role in ("image", "caption", "source", "source_caption"):
        assert f"| {', '.join(NAMES[role])} |" in PAGE


def test_the_page_names_existing_options():
    listed = re.findall(r"--option=(\w+)=", PAGE) + re.findall(r"`(\w+)=[^`]*`", PAGE)
    with pytest.raises(ValueError, match="unknown option 'x' of 'transforms'") as error:
        open_source("transforms", "nowhere", x=1)
    known = set(re.findall(r"'(\w+)'", str(error.value)))
    with pytest.raises(ValueError, match="unknown option 'x' of 'table'") as error:
        open_source("table", "nowhere", x=1)
    known |= set(re.findall(r"'(\w+)'", str(error.value)))
    for format in FORMATS.values():
        known |= set(inspect.signature(format.source).parameters)
    assert set(listed) - {"NAME", "file_format"} <= known


def test_unknown_format_lists_the_choices():
    with pytest.raises(ValueError, match=r"unknown format='zip'; choose from .*'coco'"):
        open_source("zip", "nowhere")
