"""Products, traffic and collectives: of the program for four chips, and of single lines."""

import pytest

from onediff_jax.scaling.costs import Kernel, costs_of
from onediff_jax.scaling.hlo import parse
from onediff_jax.scaling.roofline import mesh_axes
from tests.scaling.fakes import layers, mesh

TOKENS, WIDTH, HIDDEN, LAYERS = 2 * 256, 512, 1024, 3  # of one chip


def entry(lines: str, before: str = "") -> str:
    return before + "\nENTRY %main (a: f32[]) -> f32[] {\n" + lines + "\n}\n"


@pytest.fixture(scope="module")
def costs():
    return costs_of(layers())


def test_products(costs):
    """Backward: twice the forward, and again the queries and the hidden units."""
    wq, w1 = 2 * TOKENS * WIDTH * WIDTH * LAYERS, 2 * TOKENS * WIDTH * HIDDEN * LAYERS
    by_pass = {costs.labels[loop]: flops for loop, flops in costs.loop_flops.items() if loop}
    assert by_pass == {"forward": wq + 2 * w1, "backward": 3 * wq + 5 * w1}
    assert costs.flops == sum(by_pass.values())


def test_kernels(costs):
    """Two products forward, five backward, of 256 × 256 × 128 per head and sequence."""
    product = 2.0 * 2 * 4 * 256 * 256 * 128
    names = ("splash_mha_fwd_no_residuals", "splash_mha_dkv_no_residuals")
    assert sorted(costs.kernels, key=lambda k: k.flops) == [
        Kernel(costs.kernels[0].name, 2 * product, LAYERS),
        Kernel(costs.kernels[1].name, 5 * product, LAYERS),
    ]
    assert all(k.name.startswith(n[:14]) for k, n in zip(costs.kernels, names, strict=True))


def test_collectives(costs):
    """Weights are gathered once per pass, gradients scattered over fsdp and summed over replica."""
    chips, whole = mesh("v5e:2x2", 2, 2), [WIDTH * WIDTH, WIDTH * HIDDEN, WIDTH * HIDDEN]
    found = {}
    for one in costs.collectives:
        assert one.times == LAYERS and one.loop
        key = (costs.labels[one.loop], one.kind, *mesh_axes(one.group, chips))
        found[key] = found.get(key, []) + list(one.sizes)
    assert {key: sorted(sizes) for key, sizes in found.items()} == {
        ("forward", "all-gather", "fsdp"): whole,
        ("backward", "all-gather", "fsdp"): whole,
        ("backward", "reduce-scatter", "fsdp"): whole,
        ("backward", "all-reduce", "replica"): [size // 2 for size in whole],
    }
    gathers = [one for one in costs.collectives if one.kind == "all-gather"]
    assert {one.asynchronous for one in gathers} == {True, False}
    assert all(one.bytes == 2 * sum(one.sizes) for one in gathers)


def test_traffic(costs):
    """At least the parameters once each way; at most a few times everything."""
    state = 4 * LAYERS * (WIDTH * WIDTH + 2 * WIDTH * HIDDEN) / 2
    assert 2 * state < costs.hbm_bytes < 10 * state


@pytest.mark.parametrize(
    "line, arrays, flops",
    [
        (
            "dot(%l, %r), lhs_contracting_dims={1}, rhs_contracting_dims={0}",
            ("f32[3,5]", "f32[5,7]", "f32[3,7]"),
            2 * 3 * 5 * 7,
        ),
        (
            "dot(%l, %r), lhs_batch_dims={0}, lhs_contracting_dims={2}, rhs_batch_dims={0}",
            ("f32[2,3,5]", "f32[2,7,5]", "f32[2,3,7]"),
            2 * 2 * 3 * 5 * 7,
        ),
        (
            "convolution(%l, %r), dim_labels=fb_io->bf",
            ("f32[5,3]", "f32[5,7]", "f32[3,7]"),
            2 * 3 * 5 * 7,
        ),
        # A product of four pairs written as a window that meets its own part only.
        (
            "convolution(%l, %r), window={size=4 pad=3_3 rhs_reversal=1}, dim_labels=0bf_0oi->0bf",
            ("f32[4,3,5]", "f32[4,7,5]", "f32[7,3,7]"),
            2 * 3 * 5 * 7 * 16,
        ),
        (
            (
                "convolution(%l, %r), window={size=2 stride=2 lhs_dilate=3 rhs_dilate=2}, "
                "dim_labels=0bf_0io->0bf"
            ),
            ("f32[4,3,5]", "f32[2,5,7]", "f32[4,3,7]"),
            2 * 3 * 5 * 7 * 3,  # of places 0, 2; 2, 4; 4, 6; 6, 8 only 0, 6 and 6 hold something
        ),
    ],
)
def test_single_products(line, arrays, flops):
    left, right, out = arrays
    text = entry(
        f"  %l = {left} parameter(0)\n  %r = {right} parameter(1)\n  ROOT %o = {out} {line}"
    )
    assert costs_of(parse(text)).flops == flops


def test_products_of_cublas():
    """What the layout of the result is, and the workspace, does not count."""
    text = entry(
        "  %l = bf16[3,5]{1,0} parameter(0)\n"
        "  %r = bf16[5,7]{1,0} parameter(1)\n"
        "  ROOT %o = (bf16[3,7]{0,1}, s8[4096]{0}) custom-call(%l, %r), "
        'custom_call_target="__cublas$lt$matmul", backend_config={"gemm_backend_config":'
        '{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],'
        '"rhs_contracting_dimensions":["0"],"lhs_batch_dimensions":[]}}}'
    )
    found = costs_of(parse(text))
    assert (found.flops, found.hbm_bytes) == (2 * 3 * 5 * 7, 2 * (3 * 5 + 5 * 7 + 3 * 7))


@pytest.mark.parametrize(
    "out, call, name, products",
    [
        ("(Q, f32[2,4,64])", 'mosaic_gpu_v2", op_name="FlashAttention"', "tokamax_fwd", 2),
        ("(Q, Q)", 'mosaic_gpu_v2", op_name="FlashAttentionVjp"', "tokamax_dkv", 4),
        ("Q", 'mosaic_gpu_v2", op_name="FlashAttentionVjp"', "tokamax_dq", 3),
        ("(Q, u8[9])", '__cudnn$fmhaScaleBiasSoftmax"', "cudnn_fwd", 2),
        ("(Q, Q, Q)", '__cudnn$fmhaScaleBiasSoftmaxBackward"', "cudnn_bwd", 5),
        ("Q", 'mosaic_gpu_v2", op_name="norm"', "o", None),
    ],
)
def test_kernels_of_gpus(out, call, name, products):
    """2 sequences, 4 heads of 128, 64 queries, 32 keys; a head of keys serves two of queries."""
    text = entry(
        "  %q = bf16[2,64,4,128]{3,2,1,0} parameter(0)\n"
        "  %k = bf16[2,32,2,128]{3,2,1,0} parameter(1)\n"
        f'  ROOT %o.1 = {out} custom-call(%q, %k, %k), custom_call_target="{call}'.replace(
            "Q", "bf16[2,64,4,128]{3,2,1,0}"
        )
    )
    one = 2.0 * 2 * 4 * 64 * 32 * 128
    assert costs_of(parse(text)).kernels == [Kernel(name, products and products * one, 1)]


def test_slices_move_only_what_they_take():
    text = entry(
        "  %big = f32[64,128]{1,0} parameter(0)\n"
        "  %near = f32[64,128]{1,0:S(1)} parameter(1)\n"
        "  %i = s32[]{:S(4)} parameter(2)\n"
        "  %part = f32[1,128]{1,0} dynamic-slice(%big, %i, %i), dynamic_slice_sizes={1,128}\n"
        "  %put = f32[64,128]{1,0} dynamic-update-slice(%big, %part, %i, %i)\n"
        "  %start = (f32[64,128]{1,0:S(1)}, f32[64,128]{1,0}, u32[]) copy-start(%big)\n"
        "  ROOT %same = f32[64,128]{1,0:S(1)} negate(%near)"
    )
    row, whole = 4 * 128, 4 * 64 * 128
    assert costs_of(parse(text)).hbm_bytes == 2 * row + 2 * row + whole


def test_asynchronous_pairs_and_forms_of_groups():
    text = entry(
        "  %x = bf16[8]{0} parameter(0)\n"
        "  %start = (bf16[8]{0}, bf16[32]{0}) all-gather-start(%x), "
        "replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}\n"
        "  %done = bf16[32]{0} all-gather-done(%start)\n"
        "  %sum = bf16[8]{0} all-reduce(%x), replica_groups={{1,5},{2,6}}, to_apply=%add\n"
        "  %to = bf16[8]{0} collective-permute(%x), source_target_pairs={{0,3},{3,0}}\n"
        "  ROOT %named = bf16[8]{0} all-to-all(%x), replica_groups=mesh['a'=2,'b'=1,'c'=2], "
        "device_ids=([2,2]T(1,0)) {'c'}, dimensions={0}"
    )
    found = costs_of(parse(text)).collectives
    assert [(c.kind, c.asynchronous, c.group, c.bytes) for c in found] == [
        ("all-gather", True, (0, 2, 4, 6), 64),
        ("all-reduce", False, (1, 5), 16),
        ("collective-permute", False, (0, 3), 16),
        ("all-to-all", False, (0, 2), 16),
    ]
