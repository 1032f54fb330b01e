"""Folders of weights: every defect is found and named."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import save_file

from onediff_jax.models.loading import Source, load_params, read_config, read_tensors


def test_tensors_of_every_weight_dtype(tmp_path):
    tensors = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.arange(3, dtype=np.float16),
        "c": np.arange(5).astype(ml_dtypes.bfloat16),
        "scalar": np.array(3, np.float32),
        "empty": np.zeros((0, 4), np.float32),
    }
    save_file(tensors, tmp_path / "model.safetensors")
    loaded = read_tensors(tmp_path, "model")
    assert loaded.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert loaded[name].dtype == tensor.dtype and loaded[name].shape == tensor.shape
        np.testing.assert_array_equal(loaded[name], tensor)


def test_every_problem_is_listed(tmp_path):
    save_file(
        {
            "w": np.zeros((3, 2), np.float32),
            "i": np.zeros(4, np.int8),
            "extra": np.zeros(1, np.float32),
        },
        tmp_path / "model.safetensors",
    )
    shapes = {name: jax.ShapeDtypeStruct((4,), np.float32) for name in ("w", "i", "m")}
    sources = {(name,): Source((name,), (4,), (0,)) for name in shapes}
    with pytest.raises(ValueError, match=".") as error:
        load_params(shapes, sources, read_tensors(tmp_path, "model"), tmp_path)
    lines = str(error.value).splitlines()[1:]
    assert lines == [
        "i has dtype int8, not one of ['float32', 'float16', 'bfloat16']",
        "missing m (4,)",
        "unexpected extra (1,)",
        "w has shape (3, 2), not (4,)",
    ]


def test_stacked_and_transposed():
    tensors = {f"{i}.w": np.arange(6, dtype=np.float32).reshape(2, 3) + 10 * i for i in range(2)}
    source = Source(("0.w", "1.w"), (2, 3), (1, 0), stacked=True)
    shapes = {"w": {"x": jax.ShapeDtypeStruct((2, 3, 2, 1), ml_dtypes.bfloat16)}}
    loaded = load_params(shapes, {("w", "x"): source}, tensors, "folder")["w"]["x"]
    assert loaded.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(loaded[1, :, 0, 0], [10, 11, 12])
    np.testing.assert_array_equal(loaded[0, :, 1, 0], [3, 4, 5])


def test_pickles_are_refused(tmp_path):
    (tmp_path / "model.bin").write_bytes(b"")
    with pytest.raises(ValueError, match="model.bin.*pickles"):
        read_tensors(tmp_path, "model")


def test_missing_files(tmp_path):
    (tmp_path / "model.fp16.gguf").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no model.safetensors.*found \['model.fp16"):
        read_tensors(tmp_path, "model")
    with pytest.raises(ValueError, match="no config.json"):
        read_config(tmp_path)
    with pytest.raises(ValueError, match="no model.safetensors"):
        read_tensors(tmp_path / "nowhere", "model")


@pytest.mark.parametrize("keep", [0, 4, 40, -4])
def test_cut_off_file(tmp_path, keep):
    path = tmp_path / "model.safetensors"
    save_file({"a": np.zeros(16, np.float32)}, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ValueError, match="model.safetensors is"):
        read_tensors(tmp_path, "model")


def test_shards_must_match_their_index(tmp_path):
    for name in "ab":
        save_file({name: np.zeros(2, np.float32)}, tmp_path / f"{name}.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}))
    assert read_tensors(tmp_path, "model").keys() == {"a", "b"}
    weight_map = {"a": "b.safetensors", "b": "b.safetensors", "c": "b.safetensors"}
    index.write_text(json.dumps({"weight_map": weight_map}))
    with pytest.raises(ValueError, match=r"\['a', 'c'\]"):
        read_tensors(tmp_path, "model")
    for shard in ("lost.safetensors", "../a.safetensors"):
        index.write_text(json.dumps({"weight_map": {"a": shard}}))
        with pytest.raises(ValueError, match="not in the folder"):
            read_tensors(tmp_path, "model")


def test_two_layouts_in_one_folder_are_refused(tmp_path):
    """diffusers reads the shards, transformers the single file: one of them is stale."""
    save_file({"a": np.zeros(2, np.float32)}, tmp_path / "model.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "model-00001-of-00001.safetensors"}}))
    with pytest.raises(
        ValueError, match=r"model.safetensors and model.safetensors.index.json: one"
    ):
        read_tensors(tmp_path, "model")


def test_variants(tmp_path, caplog):
    """The plain file, then the finest of the known precisions, then the only one there is."""

    def save(name, value):
        save_file({"a": np.full(2, value, np.float32)}, tmp_path / name)

    def read():
        return float(read_tensors(tmp_path, "model")["a"][0])

    save("model.non_ema.safetensors", 1)
    save("other.safetensors", -1)
    assert read() == 1 and "model.non_ema.safetensors is read" in caplog.text
    save("model.ema.safetensors", 2)
    with pytest.raises(ValueError, match=r"several variants: \['ema', 'non_ema'\]"):
        read()
    save("model.bf16.safetensors", 3)
    assert read() == 3
    save("model.fp16-00001-of-00001.safetensors", 4)
    index = tmp_path / "model.safetensors.index.fp16.json"
    index.write_text(json.dumps({"weight_map": {"a": "model.fp16-00001-of-00001.safetensors"}}))
    assert read() == 4
    save("model.fp16.safetensors", 5)
    with pytest.raises(
        ValueError, match=r"model.fp16.safetensors and model.safetensors.index.fp16"
    ):
        read()
    caplog.clear()
    save("model.safetensors", 6)
    assert read() == 6 and not caplog.text


def entry(start, end, shape=(2,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, end]}


@pytest.mark.parametrize(
    "header, said",
    [
        ({"a": entry(0, 8), "b": entry(4, 12)}, "b overlaps a"),
        ({"a": entry(0, 8), "b": entry(0, 8)}, "b overlaps a"),
        ({"a": entry(0, 4, (1,)), "b": entry(8, 16)}, "b leaves bytes unused after a"),
        ({"a": entry(0, 8)}, "8 bytes follow a"),
        ({"a": entry(-8, 0)}, "a has shape"),
        ({"a": entry(0, 8, (-1, -2))}, "a has shape"),
        ({"a": entry(0, 8, (2.0,))}, "a has shape"),
        ({"a": entry(0, 16, (2**62, 2**62))}, "a needs bytes 0 to 16"),
        ({"a": entry(0, 16, (4, True))}, "a has shape"),
        ({"a": {"dtype": "F32"}}, "a is described by"),
        ({"a": 3}, "a is described by"),
        ('{"a": %s, "a": %s}', "names a twice"),
    ],
)
def test_hostile_headers(tmp_path, header, said):
    if isinstance(header, dict):
        text = json.dumps(header)
    else:
        text = header % (json.dumps(entry(0, 8)), json.dumps(entry(8, 16)))
    content = len(text).to_bytes(8, "little") + text.encode() + bytes(16)
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        read_tensors(tmp_path, "model")
