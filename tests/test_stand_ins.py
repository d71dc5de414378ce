"""Every configuration can be built without data and files of others, and its batches are those of its data."""

import importlib

import batches
import jax
import numpy as np
import pytest

from jaxface import system
from jaxface.heads import bfm, sources, stand_ins


def shapes(tree):
    return {name: (array.shape, np.dtype(array.dtype)) for name, array in tree.items()}


@pytest.mark.parametrize("name", batches.CONFIGS)
def test_every_variant_is_complete_without_data(name, tmp_path):
    module = importlib.import_module(f"configs.{name}")
    for variant in module.VARIANTS:
        config = module.get_config(variant)
        config.data.dir = str(tmp_path)
        config.lock()
        before = config.to_dict()
        filled = system.with_stand_ins(config, "the test")
        assert config.to_dict() == before
        batch = system.batch_shapes(filled, 6)
        assert batch and all(array.shape[0] == 6 for array in batch.values()), variant


@pytest.mark.parametrize("name", batches.CONFIGS)
def test_batches_have_the_shapes_that_training_takes(name):
    config = batches.config(name)
    expected, found = batches.batch(config, 4), system.batch_shapes(system.resolve(config, "the test"), 4)
    assert shapes(expected).items() <= shapes(found).items()
    assert found.keys() - expected.keys() <= {"expression"}


def test_heads_have_the_published_sizes():
    for name, (vertices, triangles, identities, expressions) in stand_ins.SIZES.items():
        head = sources.load_head(name, stand_ins.PATH)
        assert head.template.shape == (vertices, 3) and head.triangles.shape == (triangles, 3)
        assert head.identity.shape == (identities, vertices, 3) and head.expression.shape == (expressions, vertices, 3)
        assert head.triangles.max() < vertices and len(head.expression_names) == expressions
        points = head.landmark_points(head.template, "68")
        embedded = sources.load_head(sources.EMBEDDED)
        np.testing.assert_allclose(points, embedded.landmark_points(embedded.template, "68"), atol=1e-4)
        assert {len(leaf) for leaf in jax.tree.leaves(head.regions)} == {vertices}


def test_the_front_face_has_the_published_size():
    face = stand_ins.front_face()
    assert (face.mean.shape, face.triangles.shape) == ((35709, 3), (70789, 3))
    assert (len(face.front), face.crop_triangles.shape) == (27660, (54117, 3))
    assert face.triangles.max() < 35709 and face.crop_triangles.max() < 27660
    assert len(face.identity) == bfm.IDENTITIES and face.keypoints.shape == (68,)
