"""The same bytes from Apache Beam, where it is installed."""

import pytest

from onediff_jax.data.prepared import beam, local, manifest
from onediff_jax.data.prepared.plan import Encoders
from tests.data.prepared.fake import contents, make_plan, prepare


def test_without_beam_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "apache_beam", None)
    with pytest.raises(ValueError, match="pip install apache-beam"):
        beam.run(make_plan(), tmp_path, "DirectRunner")


@pytest.mark.filterwarnings("ignore")
def test_direct_runner_writes_the_same_bytes(tmp_path):
    pytest.importorskip("apache_beam", reason="Apache Beam is optional: pip install apache-beam")
    prepare(tmp_path / "local")
    folder, plan = tmp_path / "beam", make_plan()
    with local.claim(folder):
        fields = plan.fields(Encoders())
        manifest.begin(folder, fields)
        beam.run(plan, folder, "DirectRunner")
        manifest.finish(folder, plan, fields)
    assert contents(folder) == contents(tmp_path / "local")
