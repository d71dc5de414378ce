"""Pickles as inert trees: nothing is called, arrays are checked, damage is an ordinary error."""

import argparse
import collections
import io
import pickle
import random

import numpy as np
import pytest

from jaxface import pickle_arrays, pickle_tree


class _Calls:
    def __reduce__(self):
        return (print, ("executed",))


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_every_protocol(protocol):
    arrays = {
        "matrix": np.arange(6, dtype=np.int16).reshape(2, 3),
        "fortran": np.asfortranarray(np.random.default_rng(0).normal(size=(3, 2))),
        "big endian": np.arange(3, dtype=">f4"),
        "scalar": np.float64(2.5),
        "empty": np.zeros((0, 3)),
    }
    tree = collections.OrderedDict(arrays, words=["a"], bag={1, 2}, settings=argparse.Namespace(rate=1), pair=(1, 2.5))
    found = pickle_arrays.mapping(pickle_tree.loads(pickle.dumps(tree, protocol)))
    for name, array in arrays.items():
        np.testing.assert_array_equal(pickle_arrays.array(found[name]), array)
    np.testing.assert_array_equal(pickle_arrays.array(found["pair"]), [1, 2.5])
    assert pickle_arrays.array(found["words"]) is None and pickle_arrays.array(found["bag"]) is None


def test_nothing_is_called(capsys):
    for protocol in range(6):
        with pytest.raises(pickle_tree.Refused, match="print"):
            pickle_tree.loads(pickle.dumps({"a": _Calls()}, protocol))
    node = pickle_tree.loads(pickle.dumps(_Calls()), lambda *_: True)
    assert isinstance(node, pickle_tree.Call) and capsys.readouterr().out == ""
    # numpy.ndarray called with a buffer of pointers crashes Python's unpickler.
    program = b"cnumpy\nndarray\n((I1\ntS'O'\nS'AAAAAAAA'\ntR."
    assert pickle_arrays.array(pickle_tree.loads(program)) is None


@pytest.mark.parametrize("shape", [(3,), (-1,), (2**40, 2**40), ("a",)])
def test_arrays_that_do_not_fit_their_bytes(shape):
    kind = pickle_tree.Call(pickle_tree.Global("numpy", "dtype"), ("f8", False, True), (3, "<"))
    function = pickle_tree.Global("numpy.core.multiarray", "_reconstruct")
    node = pickle_tree.Call(function, (), (1, shape, kind, False, bytes(8)))
    with pytest.raises(ValueError, match="array"):
        pickle_arrays.array(node)


def test_damage_is_an_ordinary_error():
    whole, rng = pickle.dumps({"a": np.eye(3), "b": [1, {"c": "d"}], "e": {1}}, 4), random.Random(0)
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        try:
            tree = pickle_tree.load(io.BytesIO(damaged))
            for node in (pickle_arrays.mapping(tree) or {}).values():
                pickle_arrays.array(node)
        except (ValueError, LookupError, TypeError, AttributeError, OverflowError, pickle_tree.Refused):
            pass
    deep = b"(" * 200_000 + b"t" * 200_000 + b"."
    assert isinstance(pickle_tree.loads(deep), tuple), "nesting costs no recursion"
    with pytest.raises(KeyError):
        pickle_tree.loads(b"j\xff\xff\xff\xff.")
