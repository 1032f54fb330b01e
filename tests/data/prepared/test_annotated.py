"""Pictures annotated by models while they are prepared: the source, and the whole command."""

import json
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from onediff_jax.data.prepared import beam, local, manifest
from onediff_jax.data.prepared.annotated import AnnotatedSource
from onediff_jax.data.prepared.check import check_folder
from onediff_jax.data.prepared.fit import Fitting
from onediff_jax.data.prepared.plan import Encoders, Plan
from onediff_jax.data.prepared.reader import PreparedFolder
from onediff_jax.data.sources.base import BadRecord, RawExample
from onediff_jax.tasks.depth import Normalisation
from onediff_jax.tasks.own import own_tasks
from tests.data.prepared.fake import FakeSource, contents, make_plan, prepare
from tests.data.sources.conftest import Files, encode, photo
from tests.data.test_annotate import glpn, segformer
from tests.test_prepare import run


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # these models are too small to share among cores
    segformer(folder / "edges", ["edge"])
    segformer(folder / "segment", ["wall", "sheep", "grass"])
    glpn(folder / "depth")
    yield folder
    torch.set_num_threads(threads)


class Listed:
    """A source of given records, one shard."""

    def __init__(self, *records):
        self.records = records

    def shards(self):
        return ["all"]

    def read(self, shard):
        yield from self.records

    def describe(self):
        return {"path": "x"}


def test_pictures_are_annotated_and_the_rest_passes(models):
    edges = {"hed": str(models / "edges")}
    plain = [FakeSource(size=(35, 35)).example(f"k{i}", "text2image") for i in range(40)]
    pair, bad = FakeSource().example("p", "semanticmap2image"), BadRecord("no.png", "empty_file")
    source = AnnotatedSource(Listed(plain[0], bad, *plain[1:3], pair), edges)
    assert source.shards() == ["all"]
    for copy in (source, pickle.loads(pickle.dumps(source))):
        tasks = [getattr(record, "task", record) for record in copy.read("all")]
        both = ["text2image", "hed2img"]
        assert tasks == [*both, bad, *both, *both, "semanticmap2image"]
    many = AnnotatedSource(Listed(*plain), edges)
    assert [r.key for r in many.read("all")] == [e.key for e in plain for _ in range(2)]
    with pytest.raises(ValueError, match="must name a model for some of"):
        AnnotatedSource(Listed(), {})


def plan_of(models, **kinds):
    source = FakeSource(parts=3, each=5, kinds=("text2image",), size=(35, 49))
    source = AnnotatedSource(source, {kind: str(models / name) for kind, name in kinds.items()})
    return Plan(source, Fitting(("text2image", "hed2img"), ("4:3",), 12, ("hed2img",)), 0.3, 0.0)


def test_the_same_bytes_from_any_workers_and_beam(models, tmp_path):
    plan = plan_of(models, hed="edges")
    prepare(tmp_path / "one", plan)
    prepare(tmp_path / "three", plan, workers=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")
    pytest.importorskip("apache_beam")
    with local.claim(tmp_path / "beam"):
        fields = plan.fields(Encoders())
        manifest.begin(tmp_path / "beam", fields)
        beam.run(plan, tmp_path / "beam", "DirectRunner")
        manifest.finish(tmp_path / "beam", plan, fields)
    assert contents(tmp_path / "one") == contents(tmp_path / "beam")


def test_annotators_belong_to_the_plan(models, tmp_path):
    prepare(tmp_path, plan_of(models, hed="edges"))
    with pytest.raises(ValueError, match=r"source\.annotate\.hed\.name: .*edges.* there"):
        prepare(tmp_path, plan_of(models, hed="segment"))
    with pytest.raises(ValueError, match=r"source\.annotate\.depth: None there"):
        prepare(tmp_path, plan_of(models, hed="edges", depth="depth"))
    with pytest.raises(ValueError, match=r"source\.annotate: .*edges.* there, None now"):
        prepare(tmp_path, make_plan(FakeSource(parts=3, each=5, kinds=("text2image",))))


def test_other_weights_in_the_same_folder_are_other_annotators(models, tmp_path):
    segformer(tmp_path / "mine", ["edge"])
    plan = plan_of(tmp_path, hed="mine")
    prepare(tmp_path / "out", plan)
    segformer(tmp_path / "mine", ["edge"])
    with pytest.raises(ValueError, match=r"source\.annotate\.hed\.sha256"):
        prepare(tmp_path / "out", plan)


@pytest.mark.slow
@pytest.mark.parametrize("runner", ["local", "DirectRunner"])
def test_the_command(models, tmp_path, runner):
    """Depth in metres, segments and edges of a folder of pictures, in one run."""
    if runner != "local":
        pytest.importorskip("apache_beam")
    pictures = Files(tmp_path / "pictures")
    for number in range(12):
        pictures.write(f"{number}.jpg", encode(photo(number, 48, 64), "JPEG"))
        pictures.write(f"{number}.txt", f"picture {number}")
    kinds = {"depth": "depth", "segmentation": "segment", "hed": "edges"}
    out = tmp_path / "out"
    flags = (
        *(f"--input={pictures}", "--format=folder", f"--out={out}", "--tokens=12"),
        *("--held_out=0.2", "--option=shard_size=5", "--aspects=4:3", f"--runner={runner}"),
        "--annotate=" + ",".join(f"{kind}={models / name}" for kind, name in kinds.items()),
        "--tasks=text2image,depth2image,semanticmap2image,hed2img",
    )
    code, text, errors = run(*flags)
    assert code == 0, errors
    assert "48 records" in text and check_folder(out)[0] == []
    folder = PreparedFolder(out)
    records = [r for s in ("train", "held_out") for r in folder.records("depth2image", s)]
    assert len(records) == 12
    for record in records:
        assert record.captions == ((f"picture {record.key[:-4]}",), ())
        norm = Normalisation(**record.extras["depth_norm"])
        assert 0 < norm.near < norm.far and np.ptp(record.frames[1]) > 100
    annotate = json.loads((out / "plan.json").read_text())["source"]["annotate"]
    assert {kind: annotate[kind]["name"] for kind in kinds} == {
        kind: str(models / name) for kind, name in kinds.items()
    }


def test_frames_of_a_task_of_ones_own_are_found_and_derived(models):
    """From plain pictures, and in examples that lack them; one plain frame is missing for good."""
    frames, one = ["image", "depth", "canny"], {"both": "first"}
    tasks = own_tasks(
        {
            "both": {"frames": frames, "directions": one},
            "lit": {"frames": ["image", "light", "depth"], "directions": {"lit": "first"}},
        }
    )
    plain = FakeSource(size=(35, 49)).example("k", "text2image")
    lit = RawExample(
        "l", "lit", (plain.images[0], plain.images[0], None), (("a",), (), ()), own=tasks["lit"]
    )
    models = {"depth": str(models / "depth")}
    source = AnnotatedSource(Listed(plain, lit), models, tasks=tasks)
    assert source.gives == ("depth2image", "both")
    fitting = Fitting(("both", "lit"), ("4:3",), 12, source.gives, tasks)
    records = [record for example in source.read("all") for record in fitting(example)]
    assert [(record.task, len(record.frames)) for record in records] == [("both", 3), ("lit", 3)]
    for record in records:
        assert record.extras["depth_norm"]["kind"] == "inverse"
        assert {frame.shape for frame in record.frames} == {(48, 64, 3)}
    np.testing.assert_array_equal(records[0].frames[1], records[1].frames[2])
    assert set(np.unique(records[0].frames[2])) <= {0, 255}
