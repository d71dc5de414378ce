"""Mesh normals by scatter and by gather, with finite gradients for degenerate triangles."""

import jax
import jax.numpy as jnp
import numpy as np

from jaxface.geometry import mesh

CUBE = np.array([[x, y, z] for x in (-1.0, 1) for y in (-1, 1) for z in (-1, 1)])
FACES = np.array(
    [[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4]]
    + [[1, 5, 7], [1, 7, 3]]
)


def test_normals_of_a_cube():
    faces = mesh.face_normals(jnp.asarray(CUBE), FACES)
    np.testing.assert_allclose(faces[::2], [[-1, 0, 0], [1, 0, 0], [0, -1, 0], [0, 1, 0], [0, 0, -1], [0, 0, 1]])
    total = np.zeros((8, 3))
    for face, corners in enumerate(FACES):
        for corner in corners:
            total[corner] += faces[face]
    expected = total / np.linalg.norm(total, axis=1, keepdims=True)
    batch = jnp.asarray(np.stack([CUBE, 3 * CUBE + 1]))
    for around in (None, mesh.incidence(FACES, 8)):
        np.testing.assert_allclose(mesh.vertex_normals(batch, FACES, around), np.stack([expected] * 2), atol=1e-6)


def test_incidence_lists_every_corner_once():
    around = mesh.incidence(FACES, 9)
    assert (around[8] == len(FACES)).all()
    pairs = {(vertex, face) for vertex, row in enumerate(around) for face in row if face < len(FACES)}
    assert pairs == {(vertex, face) for face, corners in enumerate(FACES) for vertex in corners}
    assert (around < len(FACES)).sum() == FACES.size


def test_gradients_are_finite_without_area():
    vertices = jnp.zeros((4, 3)).at[3].set(1.0)
    triangles = np.array([[0, 1, 2]])
    normals, pull = jax.vjp(lambda v: mesh.vertex_normals(v, triangles), vertices)
    assert (normals == 0).all() and jnp.isfinite(pull(jnp.ones_like(normals))[0]).all()
