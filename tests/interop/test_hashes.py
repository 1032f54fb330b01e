"""Exports know the hashes of their files; what was damaged or changed is refused by name."""

import shutil
from pathlib import Path

import pytest

from onediff_jax.files import write_json
from onediff_jax.interop.config import PretrainedError
from onediff_jax.interop.pretrained import check_hashes, hashes_of, load_pretrained

GOLDEN = Path(__file__).parents[1] / "golden" / "nextdit_tiny"
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(GOLDEN / "transformer", tmp_path / "transformer")
    write_json(tmp_path / "onediff_jax.json", {"files": hashes_of(tmp_path)})
    return tmp_path


def test_a_flipped_bit_is_refused(folder):
    check_hashes(folder)
    content = bytearray((folder / WEIGHTS).read_bytes())
    content[-1000] ^= 64
    (folder / WEIGHTS).write_bytes(bytes(content))
    for read in (check_hashes, load_pretrained):
        with pytest.raises(PretrainedError, match=f"{WEIGHTS} are not what the export wrote"):
            read(folder)


def test_parts_and_missing_files(folder):
    (folder / "vae").mkdir()
    write_json(folder / "vae" / "config.json", {})
    write_json(folder / "onediff_jax.json", {"files": hashes_of(folder)})
    (folder / "vae" / "config.json").unlink()
    check_hashes(folder, within="transformer")
    with pytest.raises(PretrainedError, match=r"vae/config\.json are not what"):
        check_hashes(folder)


def test_folders_of_others_pass(folder):
    for value in ({}, {"config": {}}):
        write_json(folder / "onediff_jax.json", value)
        check_hashes(folder)
    (folder / "onediff_jax.json").unlink()
    check_hashes(folder)


@pytest.mark.parametrize("content", ["", "[]", '{"files": {"a'])
def test_a_damaged_record_is_not_taken_for_none(folder, content):
    (folder / "onediff_jax.json").write_text(content)
    with pytest.raises(PretrainedError, match=r"onediff_jax\.json .*; export again"):
        check_hashes(folder)
