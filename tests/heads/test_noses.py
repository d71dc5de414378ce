"""Noses: what moves when they protrude more, and how far they protrude on rendered people."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxface.heads import noses, scenes
from jaxface.heads.makehuman.head import makehuman_head
from jaxface.systems.deep3d.preprocessing import alignment

BRIDGE, BASE = np.arange(27, 31), np.arange(31, 36)


def protrusion(five: np.ndarray) -> float:
    """How far the nose tip lies in front of eyes and mouth corners (5,3), in distances of the eyes."""
    return (five[2, 2] - five[[0, 1, 3, 4], 2].mean()) / np.linalg.norm(five[1] - five[0])


@pytest.fixture(scope="module")
def head():
    return jax.device_put(scenes.renderable(makehuman_head()))


def test_nose_and_its_base_move_forwards_and_the_rest_of_the_face_stays(head):
    moved = np.asarray(head.landmark_points(noses.displacement(head, jnp.float32(0.4)), "68"))
    assert (moved[:, :2] == 0).all()
    assert (np.diff(moved[BRIDGE, 2]) > 0).all() and moved[30, 2] == pytest.approx(10, abs=1.5)
    assert (moved[BASE, 2] > 2).all() and (moved[BASE, 2] < moved[30, 2]).all()
    assert np.delete(moved[:, 2], np.concatenate([BRIDGE, BASE])).max() < 0.6


def test_a_displaced_nose_is_smooth(head):
    """No edge of the mesh is bent by more than the nose itself is steep."""
    moved = np.asarray(noses.displacement(head, jnp.float32(0.4)))[:, 2]
    edges = np.asarray(head.triangles)[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    lengths = np.linalg.norm(np.diff(np.asarray(head.template)[edges], axis=1)[:, 0], axis=1)
    assert (np.abs(np.diff(moved[edges], axis=1)[:, 0]) <= 0.9 * lengths + 1e-3).all()


def test_noses_protrude_as_on_scanned_people_and_not_on_portraits(head):
    """The five points of the mean face of the Basel Face Model, with which Deep3DFaceRecon aligns photographs."""
    scanned = protrusion(alignment.STANDARD_FIVE_DM)
    sample = jax.jit(scenes.sample_scene, static_argnums=(2, 3))
    drawn = [sample(head, jax.random.key(seed), 64, scenes.UNCONSTRAINED) for seed in range(200)]
    found = []
    for scene in drawn:
        vertices = head.template + noses.displacement(head, scene.nose)
        found.append(protrusion(alignment.five_points(np.asarray(head.landmark_points(vertices, "68")))))
    assert np.mean(found) < scanned < np.max(found)
    assert np.mean(found) > 0.85 * scanned
    assert sample(head, jax.random.key(0), 64, scenes.PORTRAIT).nose == 0
