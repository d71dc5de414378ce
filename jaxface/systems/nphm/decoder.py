"""`System.head` of NPHM: meshes of codes and random people, in millimetres and FLAME's frame."""

import dataclasses
import functools

import ml_collections
import numpy as np

from jaxface.errors import UserError
from jaxface.heads.head_space import MM_PER_UNIT
from jaxface.meshes import Mesh
from jaxface.system import HeadDecoder, Tree
from jaxface.systems.nphm.surface import head_model
from jaxface.systems.nphm.surface.head_model import HeadModel


def decoder(config: ml_collections.ConfigDict, params: Tree, model_state: Tree) -> HeadDecoder:
    """The decoder of a trained workdir of either phase; an identity model has no expressions."""
    del model_state
    head, resolution = head_model.load(config, params), config.fit.resolution
    expression_size = 0 if head.deformation is None else head.deformation.code_dim

    @functools.lru_cache(maxsize=1)
    def neutral(code: bytes) -> Mesh:
        """The canonical mesh of an identity code; kept, because extraction dominates the time of an edit."""
        return head.neutral_mesh(np.frombuffer(code, np.float32), resolution)

    def mesh(identity: np.ndarray, expression: np.ndarray) -> Mesh:
        identity = np.ascontiguousarray(identity, np.float32)
        canonical = neutral(identity.tobytes())
        # The canonical space is the neutral expression; the zero code of a trained network is only close to it.
        if np.any(expression):
            canonical = head.pose(canonical, identity, np.float32(expression))
        return dataclasses.replace(canonical, vertices=np.float32(MM_PER_UNIT * canonical.vertices))

    return HeadDecoder(head.identity.code_dim, expression_size, mesh, functools.partial(_sample, head))


def _sample(head: HeadModel, rng: np.random.Generator, deviations: float) -> tuple[np.ndarray, np.ndarray]:
    """Codes of a random person, as in the official code: mean + deviations * std * N(0, 1) of the training identities.

    The expression is that of a random training scan, because samples around their mean are not expressions (the
    author's advice, issue 20). Raises UserError if the model has no training codes.
    """
    if head.identity_codes is None:
        raise UserError("nphm: this model has no training codes to sample from; use a workdir that was trained")
    mean, std = head.identity_codes.mean(0), head.identity_codes.std(0)
    identity = np.float32(mean + deviations * std * rng.standard_normal(len(mean)))
    if head.expression_codes is None:
        return identity, np.zeros(0 if head.deformation is None else head.deformation.code_dim, np.float32)
    return identity, np.float32(head.expression_codes[rng.integers(len(head.expression_codes))])
