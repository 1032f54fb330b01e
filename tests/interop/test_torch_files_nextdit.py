"""The PyTorch transformer against golden outputs of the released implementation."""

import pathlib

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from onediff_jax.interop.torch_files import nextdit
from onediff_jax.interop.torch_files.nextdit import NextDiT

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Networks this small are faster so, and much faster on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def load(name, **options):
    return NextDiT.from_pretrained(GOLDEN / name / "transformer", **options)


def golden_case(name, case):
    with np.load(GOLDEN / name / "cases.npz") as arrays:
        prefix = f"{case}__"
        return {
            key.removeprefix(prefix): torch.from_numpy(arrays[key])
            for key in arrays
            if key.startswith(prefix)
        }


@torch.no_grad()
def run(model, case, timesteps=None):
    return model(
        case["samples"],
        case["timesteps"] if timesteps is None else timesteps,
        case["encoder_hidden_states"],
        case["encoder_attention_mask"],
        scale_factor=case["scale_factor"].item(),
        scale_watershed=case["scale_watershed"].item(),
    ).sample


@pytest.fixture(scope="module")
def model():
    return load("nextdit_tiny", attention_softcap=None)


@pytest.mark.parametrize(
    "case", ["c00_1frame", "c01_2frames", "c03_nonsquare", "c04_batch3", "c07_scale_linear"]
)
def test_matches_the_released_model(model, case):
    case = golden_case("nextdit_tiny", case)
    torch.testing.assert_close(run(model, case), case["output"], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("softcap", "output"), [(None, "output"), (30.0, "output_softcap")])
def test_softcap_matches(softcap, output):
    case = golden_case("nextdit_tiny_softcap", "c01_2frames")
    model = load("nextdit_tiny_softcap", attention_softcap=softcap)
    torch.testing.assert_close(run(model, case), case[output], atol=5e-4, rtol=0)


def test_softcap_is_30_where_the_config_says_nothing():
    assert load("nextdit_tiny").config.attention_softcap == 30.0


def test_every_layer_matches(model):
    case = golden_case("nextdit_tiny", "c03_nonsquare")
    with np.load(GOLDEN / "nextdit_tiny" / "intermediates_c03.npz") as arrays:
        wanted = {name: torch.from_numpy(arrays[name]) for name in arrays}
    modules = {n: m for n, m in model.named_modules() if n in wanted}
    assert {f"layers.{i}" for i in range(3)} | {"x_embedder", "layers.0.attention"} <= set(modules)
    seen = {}
    hooks = [
        module.register_forward_hook(lambda m, i, output, name=name: seen.update({name: output}))
        for name, module in modules.items()
    ]
    run(model, case)
    for hook in hooks:
        hook.remove()
    for name in modules:
        torch.testing.assert_close(seen[name], wanted[name], atol=1e-4, rtol=0, msg=name)
    cos, sin = nextdit.rope_table((2, 6, 10), 12, "cpu")
    torch.testing.assert_close(cos, wanted["freqs_cis_real"][0], atol=1e-5, rtol=0)
    torch.testing.assert_close(sin, wanted["freqs_cis_imag"][0], atol=1e-5, rtol=0)


def test_parameter_names_are_those_of_the_release(model):
    from safetensors import safe_open

    file = GOLDEN / "nextdit_tiny" / "transformer" / "diffusion_pytorch_model.safetensors"
    with safe_open(file, "pt") as weights:
        assert set(weights.keys()) == set(model.state_dict())


def test_defaults_are_the_released_size():
    with torch.device("meta"):
        model = NextDiT()
    assert sum(p.numel() for p in model.parameters()) == 2_800_389_184
    assert tuple(model.layers[15].attention.wk.weight.shape) == (8 * 120, 3840)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("softcap", "output"), [(None, "output"), (30.0, "output_softcap")])
def test_half_precision_is_close(dtype, softcap, output):
    case = golden_case("nextdit_tiny_softcap", "c01_2frames")
    got = run(load("nextdit_tiny_softcap", attention_softcap=softcap).to(dtype), case)
    assert got.dtype == dtype
    # Logits of ±100 make this the worst case; the two outputs differ by 0.3 (root mean square).
    limit = {torch.bfloat16: 0.2, torch.float16: 0.03}[dtype]
    assert (got.float() - case[output]).square().mean().sqrt() < limit


def test_chunks_of_queries_change_nothing(monkeypatch):
    case = golden_case("nextdit_tiny_softcap", "c01_2frames")
    model = load("nextdit_tiny_softcap")
    whole = run(model, case)
    tokens = case["samples"].shape[1] * 8 * 8
    monkeypatch.setattr(nextdit, "MAX_LOGITS", 2 * 8 * tokens * 7)  # 7 does not divide 128
    torch.testing.assert_close(run(model, case), whole, atol=2e-5, rtol=0)


def test_timesteps_of_every_accepted_shape_agree(model):
    case = golden_case("nextdit_tiny", "c01_2frames")
    per_frame = case["timesteps"][:, :, 0, 0, 0]
    assert per_frame[0, 0] != per_frame[0, 1]
    for timesteps in (per_frame, per_frame[:, :, None, None, None]):
        assert torch.equal(run(model, case, timesteps), run(model, case))
    same = torch.full((2, 2), 250.0)
    for timesteps in (torch.tensor(250.0), same[:, 0], same[:1]):
        assert torch.equal(run(model, case, timesteps), run(model, case, same))


def test_timesteps_that_vary_within_a_frame_are_refused(model):
    with pytest.raises(ValueError, match="constant within a frame"):
        run(model, golden_case("nextdit_tiny", "c11_elementwise_t"))
    with pytest.raises(ValueError, match="must broadcast"):
        run(model, golden_case("nextdit_tiny", "c01_2frames"), torch.zeros(2, 3))


def test_rope_stretch_depends_on_the_largest_timestep(model):
    case = golden_case("nextdit_tiny", "c01_2frames")
    plain = run(model, case)
    stretched = {}
    for watershed in (0.0, 1000.0):
        case["scale_factor"], case["scale_watershed"] = torch.tensor(2.0), torch.tensor(watershed)
        stretched[watershed] = run(model, case)
    cos, _ = model._rope((1, 1, 2), torch.tensor([[500.0]]), 2.0, 300.0)
    # Above the watershed the base is 2·10⁴; x positions are the last third of the pairs.
    expected = np.cos(np.array([1.0, 20000.0**-0.5], np.float32))
    np.testing.assert_allclose(cos[1, -2:], expected, atol=1e-6)
    assert (stretched[0.0] - plain).abs().max() > 1e-3
    assert (stretched[0.0] - stretched[1000.0]).abs().max() > 1e-3


def test_padding_of_the_caption_changes_nothing(model):
    case = golden_case("nextdit_tiny", "c04_batch3")
    padded = dict(case)
    noise = torch.randn(3, 5, 48, generator=torch.Generator().manual_seed(0))
    padded["encoder_hidden_states"] = torch.cat([case["encoder_hidden_states"], noise], 1)
    zeros = torch.zeros(3, 5, dtype=torch.int64)
    padded["encoder_attention_mask"] = torch.cat([case["encoder_attention_mask"], zeros], 1)
    torch.testing.assert_close(run(model, padded), run(model, case), atol=1e-5, rtol=0)
    padded["encoder_attention_mask"] = torch.zeros_like(padded["encoder_attention_mask"])
    assert run(model, padded).isfinite().all()


def test_gradient_checkpointing_gives_the_same_gradients():
    model = load("nextdit_tiny")
    case = golden_case("nextdit_tiny", "c00_1frame")
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            model.enable_gradient_checkpointing()
            model.train()
        model.zero_grad()
        output = model(
            case["samples"],
            case["timesteps"],
            case["encoder_hidden_states"],
            case["encoder_attention_mask"],
        ).sample
        output.square().mean().backward()
        gradients.append(model.layers[0].attention.wq.weight.grad.clone())
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(
    ("field", "value"),
    [("hidden_size", 64), ("norm_type", "layer"), ("patch_size", (2, 2, 2)), ("num_kv_heads", 3)],
)
def test_unsupported_configurations_are_refused_by_name(field, value):
    sizes = {"hidden_size": 96, "depth": 1, "num_heads": 8, "num_kv_heads": 2}
    with pytest.raises(ValueError, match=field if field != "num_kv_heads" else "kv_heads=3"):
        NextDiT(**{**sizes, "caption_channels": 8, "multiple_of": 32, field: value})


@torch.no_grad()
def test_float16_holds_what_the_feed_forward_makes():
    """Products beyond 65,504, as trained weights make, in float16."""
    torch.manual_seed(0)
    block = nextdit.FeedForward(32, 16, None)
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter, std=20.0)
    norm, x = nextdit.RMSNorm(32, 1e-5), torch.randn(2, 5, 32)
    wanted = norm(block(x))
    assert block(x).abs().max() > 1e7
    got = norm.half()(block.half()(x.half()))
    assert got.dtype == torch.float16
    torch.testing.assert_close(got.float(), wanted, atol=5e-3, rtol=5e-3)
