"""A trained NPHM head: meshes from identity and expression codes."""

import dataclasses
import functools

import jax
import ml_collections
import numpy as np

from jaxface.meshes import Mesh
from jaxface.system import Tree
from jaxface.systems.nphm import model
from jaxface.systems.nphm.networks.deformation import Deformation
from jaxface.systems.nphm.networks.npm import IdentityModel, jit_anchors
from jaxface.systems.nphm.surface import extract

# `config.loss.code` of the published models by `config.model.kind`: the variants reference and npm.
PUBLISHED_CODE_WEIGHTS = {"ensemble": 0.01, "single": 0.002}


@dataclasses.dataclass(frozen=True)
class HeadModel:
    """Networks of both phases with their parameters. C and E are the lengths of the codes; A anchors.

    Attributes:
        identity: the identity model.
        deformation: the deformation network; None for an identity model alone.
        params: {"identity": …, "expression": …}, parameters of the networks.
        identity_codes: (subjects,C), codes of the training subjects; None if a converted checkpoint has none.
        expression_codes: (scans,E), codes of the training scans; None without them or without `deformation`.
        prior_scale: weight of the squared identity codes in training relative to the published models. Codes of models
            that were trained with a smaller weight are longer, and fits need a weaker prior by the same factor.
    """

    identity: IdentityModel
    deformation: Deformation | None
    params: Tree
    identity_codes: np.ndarray | None = None
    expression_codes: np.ndarray | None = None
    prior_scale: float = 1.0

    def anchors(self, identity: np.ndarray) -> np.ndarray:
        """Anchors (A,3) of an identity code (C,), in model units."""
        return np.asarray(jit_anchors(self.identity, self.params["identity"], identity[None]))[0]

    def neutral_mesh(self, identity: np.ndarray, resolution: int) -> Mesh:
        """Mesh of an identity code (C,) in canonical space, in model units."""
        return extract.extract_mesh(self.identity, self.params["identity"], identity, resolution)

    def pose(self, neutral: Mesh, identity: np.ndarray, expression: np.ndarray) -> Mesh:
        """The neutral mesh of an identity code (C,), deformed by an expression code (E,) if there is a network."""
        if self.deformation is None:
            return neutral
        networks = self.identity, self.deformation
        condition = _condition(networks, self.params["identity"], self.params["expression"], identity[None])[0]
        return extract.pose_mesh(self.deformation, self.params["expression"], condition, expression, neutral)

    @functools.cached_property
    def mean_mesh(self) -> Mesh:
        """Mesh of the all-zero identity code, in model units."""
        return self.neutral_mesh(np.zeros(self.identity.code_dim, np.float32), 64)

    @functools.cached_property
    def mean_anchors(self) -> np.ndarray:
        """Anchors (A,3) of the all-zero identity code, in model units."""
        return self.anchors(np.zeros(self.identity.code_dim, np.float32))


def load(config: ml_collections.ConfigDict, params: Tree) -> HeadModel:
    """The head of a trained workdir of either phase: its configuration and parameters."""
    if config.phase == "identity":
        return HeadModel(model.identity_model(config), None, params, _codes(params), prior_scale=prior_scale(config))
    identity_config = model.identity_config(config)
    identity, identity_params = model.identity_model(identity_config), model.identity_params(config, identity_config)
    deformation = model.expression_model(config, identity)
    both = {"identity": identity_params["identity"], "expression": params["expression"]}
    codes = _codes(identity_params), _codes(params)
    return HeadModel(identity, deformation, both, *codes, prior_scale(identity_config))


def prior_scale(identity_config: ml_collections.ConfigDict) -> float:
    """`HeadModel.prior_scale` of an identity configuration; 1 for a random model, which has no training."""
    published = PUBLISHED_CODE_WEIGHTS[identity_config.model.kind]
    return identity_config.get("loss", {}).get("code", published) / published


def _codes(params: Tree) -> np.ndarray | None:
    return np.asarray(params["codes"]) if "codes" in params else None


@functools.partial(jax.jit, static_argnums=0)
def _condition(networks: tuple, identity_params: Tree, expression_params: Tree, identity: jax.Array) -> jax.Array:
    identity_model, deformation = networks
    return deformation.condition(expression_params, identity, identity_model.anchors(identity_params, identity))
