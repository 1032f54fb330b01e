"""Files written tensor by tensor are what the safetensors library reads."""

import errno
import json
import os

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from onediff_jax.interop.safetensors_io import SafetensorsWriter, split_shards

SHAPES = {"a": (3, 5), "b": (7,), "c": (), "d": (2, 3, 4)}
TENSORS = {
    name: np.random.default_rng(i).standard_normal(shape).astype(np.float32)
    for i, (name, shape) in enumerate(SHAPES.items())
}


def write(folder, tensors=TENSORS, dtype="float32", max_shard_bytes=10**9):
    with SafetensorsWriter(folder, SHAPES, dtype, max_shard_bytes=max_shard_bytes) as writer:
        for name in sorted(tensors, reverse=True):  # any order
            writer.write(name, tensors[name])
    return writer


@pytest.mark.parametrize(
    "dtype, stored",
    [("float32", np.float32), ("float16", np.float16), ("bfloat16", ml_dtypes.bfloat16)],
)
def test_one_file(tmp_path, dtype, stored):
    write(tmp_path, dtype=dtype)
    assert [file.name for file in tmp_path.iterdir()] == ["diffusion_pytorch_model.safetensors"]
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    loaded = load_file(file)
    assert loaded.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert loaded[name].dtype == stored
        np.testing.assert_array_equal(loaded[name], tensor.astype(stored))
    with safe_open(file, "np") as opened:
        assert opened.metadata() == {"format": "pt"}


def test_every_bit_of_float32_is_kept(tmp_path):
    odd = np.array([0x7FC00001, 0x00000001, 0x80000000, 0xFF800000, 0x3F800001], np.uint32)
    with SafetensorsWriter(tmp_path, {"x": (5,)}, "float32", max_shard_bytes=100) as writer:
        writer.write("x", odd.view(np.float32))
    (file,) = tmp_path.iterdir()
    assert load_file(file)["x"].view(np.uint32).tolist() == odd.tolist()


def test_transposed_tensors_larger_than_a_tile(tmp_path):
    tensor = np.random.default_rng(0).standard_normal((300, 520)).astype(np.float32)
    with SafetensorsWriter(tmp_path, {"x": (520, 300)}, "bfloat16", max_shard_bytes=1) as writer:
        writer.write("x", tensor.T)
    (file,) = tmp_path.iterdir()
    np.testing.assert_array_equal(load_file(file)["x"], tensor.T.astype(ml_dtypes.bfloat16))


def test_shards_and_their_index(tmp_path):
    writer = write(tmp_path, max_shard_bytes=65)
    index = json.loads((tmp_path / "diffusion_pytorch_model.safetensors.index.json").read_text())
    first, second, third = (f"diffusion_pytorch_model-0000{n}-of-00003.safetensors" for n in "123")
    # a has 60 bytes, b 28, c 4, d 96
    assert index["weight_map"] == {"a": first, "b": second, "c": second, "d": third}
    assert index["metadata"] == {"total_size": 188} and writer.bytes == 188
    found = {}
    for name in (first, second, third):
        found |= load_file(tmp_path / name)
    for name, tensor in TENSORS.items():
        np.testing.assert_array_equal(found[name], tensor)


def test_split_keeps_order_and_isolates_giants():
    shapes = {"a": (2,), "b": (50,), "c": (3,), "d": (1,)}
    assert split_shards(shapes, 4, 16) == [["a"], ["b"], ["c", "d"]]


@pytest.mark.parametrize(
    "name, tensor, message",
    [
        ("z", TENSORS["a"], "not planned"),
        ("a", TENSORS["a"].T, r"shape \(5, 3\), planned \(3, 5\)"),
    ],
)
def test_what_was_not_planned(tmp_path, name, tensor, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path, TENSORS | {name: tensor})


def test_forgotten_tensors_are_named(tmp_path):
    some = {name: TENSORS[name] for name in "ac"}
    with pytest.raises(ValueError, match=r"not written: \['b', 'd'\]"):
        write(tmp_path, some)


def test_numbers_beyond_float16(tmp_path):
    with pytest.raises(ValueError, match="b holds numbers beyond float16"):
        write(tmp_path, TENSORS | {"b": np.full(7, 1e5, np.float32)}, "float16")
    write(tmp_path, TENSORS | {"b": np.full(7, np.inf, np.float32)}, "float16")


@pytest.mark.parametrize(
    "options, message",
    [({"dtype": "int8"}, "'float32', 'bfloat16', 'float16'"), ({"max_shard_bytes": 0}, "positive")],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write(tmp_path, **options)


@pytest.mark.parametrize("fails", [2, 3, 5])  # call 1 writes the header, then the four tensors
def test_what_cannot_be_written_is_said(tmp_path, monkeypatch, fails):
    """Also of the last tensor, which nothing comes after."""
    write_piece, calls = os.pwrite, []

    def pwrite(*args):
        calls.append(args)
        if len(calls) == fails:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write_piece(*args)

    monkeypatch.setattr(os, "pwrite", pwrite)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path)
