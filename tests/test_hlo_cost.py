"""Costs of compiled programs: loops by their trips, products by their shapes, collectives, operands that are sliced."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from jaxface import hlo_cost, hlo_loops, hlo_text

# As the TPU compiler writes loops: without a known trip count, with step and bound carried through the loop; the
# counter runs down in the second one, and the bound of the third one depends on data.
LOOPS = """HloModule loops, is_scheduled=true

%body (state: (s32[], f32[8,128], s32[], s32[])) -> (s32[], f32[8,128], s32[], s32[]) {
  %state = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}, s32[]{:T(128)}, s32[]{:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  %x = f32[8,128]{1,0:T(8,128)} get-tuple-element(%state), index=1
  %one = s32[]{:T(128)} get-tuple-element(%state), index=2
  %bound = s32[]{:T(128)} get-tuple-element(%state), index=3
  %next = s32[]{:T(128)} add(%i, %one)
  %y = f32[8,128]{1,0:T(8,128)S(1)} multiply(%x, %x), metadata={op_name="a(b)"}
  ROOT %out = (s32[], f32[8,128]{1,0:T(8,128)S(1)}, s32[], /*index=3*/s32[]) tuple(%next, %y, %one, /*index=3*/%bound)
}

%condition (state.1: (s32[], f32[8,128], s32[], s32[])) -> pred[] {
  %state.1 = (s32[]{:T(128)}, f32[8,128]{1,0:T(8,128)}, s32[]{:T(128)}, s32[]{:T(128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=0
  %bound.1 = s32[]{:T(128)} get-tuple-element(%state.1), index=3
  ROOT %less = pred[]{:T(512)} compare(%i.1, %bound.1), direction=LT
}

%down (state.2: (s32[], f32[8,128])) -> (s32[], f32[8,128]) {
  %state.2 = (s32[], f32[8,128]{1,0:T(8,128)}) parameter(0)
  %i.2 = s32[] get-tuple-element(%state.2), index=0
  %x.2 = f32[8,128]{1,0:T(8,128)} get-tuple-element(%state.2), index=1
  %two = s32[] constant(2)
  %next.2 = s32[] subtract(%i.2, %two)
  ROOT %out.2 = (s32[], f32[8,128]{1,0:T(8,128)}) tuple(%next.2, %x.2)
}

%positive (state.3: (s32[], f32[8,128])) -> pred[] {
  %state.3 = (s32[], f32[8,128]{1,0:T(8,128)}) parameter(0)
  %i.3 = s32[] get-tuple-element(%state.3), index=0
  %zero = s32[] constant(0)
  ROOT %more = pred[] compare(%i.3, %zero), direction=GE
}

ENTRY %main (p: f32[8,128], n: s32[]) -> f32[8,128] {
  %p = f32[8,128]{1,0:T(8,128)} parameter(0)
  %n = s32[] parameter(1)
  %first = s32[]{:T(128)} constant(1)
  %last = s32[]{:T(128)} constant(11)
  %copied = s32[]{:T(128)} copy(%first)
  %init = (s32[], f32[8,128]{1,0:T(8,128)}, s32[], s32[]) tuple(%copied, %p, %first, %last)
  %up = (s32[], f32[8,128]{1,0:T(8,128)}, s32[], s32[]) while(%init), condition=%condition, body=%body
  %mid = f32[8,128]{1,0:T(8,128)} get-tuple-element(%up), index=1
  %start = (s32[], f32[8,128]{1,0:T(8,128)}) tuple(%last, %mid)
  %lower = (s32[], f32[8,128]{1,0:T(8,128)}) while(%start), condition=%positive, body=%down
  %unknown = (s32[], f32[8,128]{1,0:T(8,128)}, s32[], s32[]) tuple(%copied, %mid, %first, %n)
  %some = (s32[], f32[8,128]{1,0:T(8,128)}, s32[], s32[]) while(%unknown), condition=%condition, body=%body
  %called = f32[8,128]{1,0:T(8,128)} custom-call(%mid), custom_call_target="kernel"
  ROOT %end = f32[8,128]{1,0:T(8,128)} get-tuple-element(%some), index=1
}
"""


def cost_of(function, *arguments):
    return hlo_cost.cost(hlo_text.parse(jax.jit(function).lower(*arguments).compile().as_text()))


def test_loops_of_a_tpu_program():
    module = hlo_text.parse(LOOPS)
    main = module.computations[module.entry]
    frame = hlo_loops.Frame(main)
    trips = {name: hlo_loops.trip_count(module, main.instructions[name], frame) for name in ("up", "lower", "some")}
    assert trips == {"up": 10, "lower": 6, "some": None}
    cost = hlo_cost.cost(module)
    assert cost.unknown_loops == 1
    # The product of 1,024 numbers and the counter, in ten trips and in the loop that counts once; the other loop's
    # subtraction and all comparisons.
    assert cost.flops == 11 * (1024 + 1 + 1) + 6 * 2
    scalars = cost.bytes - 11 * 2 * 4096 - 2 * 4096
    assert 0 < scalars < 100 * 4 * 1024


def test_padded_tiles_count_in_full():
    array = hlo_text.Array("bf16", (8, 64, 64, 16), (3, 0, 2, 1), (8, 128))
    assert array.size * 2 * 8 == array.bytes == 8 * 64 * 64 * 128 * 2
    assert hlo_text.Array("pred", (3,)).bytes == 3 and hlo_text.Array("s4", (3, 2)).bytes == 3


@pytest.mark.parametrize("loop", ["scan", "fori", "nested"])
def test_bodies_count_by_their_trips(loop):
    matrix, x = jnp.ones((32, 32)), jnp.ones((4, 32))
    step = lambda x, _: (jnp.tanh(x @ matrix), None)  # noqa: E731
    functions = {
        "scan": lambda x: lax.scan(step, x, None, length=7)[0],
        "fori": lambda x: lax.fori_loop(3, 10, lambda i, x: step(x, i)[0], x),
        "nested": lambda x: lax.map(lambda row: lax.scan(step, row[None], None, length=7)[0], x),
    }
    products = sum(cost_of(functions[loop], x).products.values())
    assert products == 7 * 2 * 4 * 32 * 32


@pytest.mark.parametrize("options", [
    {"window_strides": (2, 2), "padding": ((1, 1), (1, 0))},
    {"window_strides": (1, 1), "padding": ((0, 0), (0, 0)), "lhs_dilation": (2, 2)},
    {"window_strides": (1, 1), "padding": "SAME", "rhs_dilation": (2, 1)},
])  # fmt: skip
def test_convolutions_count_what_meets_neither_padding_nor_dilation(options):
    numbers = ("NHWC", "HWIO", "NHWC")
    image, kernel = jnp.ones((2, 9, 8, 3)), jnp.ones((3, 3, 3, 5))
    function = lambda a, b: lax.conv_general_dilated(a, b, dimension_numbers=numbers, **options)  # noqa: E731
    text = jax.jit(function).lower(image, kernel).compiler_ir("hlo").as_hlo_text()
    # Every output is the sum of 1 over what it meets.
    assert hlo_cost.cost(hlo_text.parse(text)).products == {"f32": 2.0 * float(jnp.sum(function(image, kernel)))}


def test_slices_in_a_loop_do_not_count_the_whole_array():
    table, rows = jnp.ones((1000, 256)), jnp.arange(10)
    read = cost_of(
        lambda table, rows: lax.map(lambda row: lax.dynamic_slice(table, (row, 0), (1, 256)) * 2, rows), table, rows
    )
    written = cost_of(
        lambda table, rows: lax.fori_loop(0, 10, lambda i, t: t.at[i].set(t[i] + 1.0), table), table, rows
    )
    assert read.bytes < table.size * 4 / 2
    assert written.bytes < 3.5 * table.size * 4  # the copy of the argument, and ten rows


def test_all_reduces_of_a_step():
    mesh = Mesh(np.array(jax.devices()[:2]), ("data",))

    def step(x):
        def body(total, _):
            return total + lax.psum(x, "data"), None

        return lax.scan(body, lax.psum(x, "data"), None, length=3)[0]

    mapped = jax.shard_map(step, mesh=mesh, in_specs=PartitionSpec("data"), out_specs=PartitionSpec(), check_vma=False)
    cost = cost_of(mapped, jnp.ones((4, 8)))
    assert cost.all_reduces in (1, 2, 4)  # XLA may move the invariant one out of the loop
    assert cost.all_reduce_bytes == cost.all_reduces * 2 * 8 * 4
