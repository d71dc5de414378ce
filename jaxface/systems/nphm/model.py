"""The networks of a configuration, and the identity model that an expression model stands on."""

import functools

import jax
import ml_collections

from jaxface import config_file, pretrained
from jaxface.errors import UserError
from jaxface.system import Tree
from jaxface.systems.nphm import dataset_metadata
from jaxface.systems.nphm.networks.deformation import Deformation
from jaxface.systems.nphm.networks.ensemble import Ensemble
from jaxface.systems.nphm.networks.npm import NPM, IdentityModel

CODE_SPREAD = 0.1  # length of a fresh identity code
EXPRESSION_SPREAD = 0.01  # of each number of a fresh expression code


def identity_model(config: ml_collections.ConfigDict) -> IdentityModel:
    """The identity model of `config.model` of a phase-1 configuration. UserError for anchors that do not fit."""
    model = config.model
    if model.kind == "single":
        return NPM(model.code, model.width, model.layers, model.narrow_skip)
    if model.kind != "ensemble":
        raise UserError(f'config.model.kind: unknown {model.kind!r}; choose "ensemble" or "single"')
    anchors = tuple(float(number) for number in model.anchors)
    if not anchors or len(anchors) % 3 or 2 * model.pairs > len(anchors) // 3:
        raise UserError(
            f"config.model.anchors holds {len(anchors)} numbers, which is not 3 for each of at least "
            f"{max(2 * model.pairs, 1)} anchors; give --anchors FILE, or prepare the data set {config.data.dataset}"
        )
    sizes = (model.global_code, model.local_code, model.width, model.layers, model.position_width)
    return Ensemble(anchors, model.pairs, *sizes, model.narrow_skip)


def expression_model(config: ml_collections.ConfigDict, identity: IdentityModel) -> Deformation:
    """The deformation of `config.model` of a phase-2 configuration, for `identity`."""
    model = config.model
    sizes = (model.code, model.compressed, model.width, model.layers)
    return Deformation(identity.code_dim, identity.anchor_count, *sizes, model.narrow_skip)


def resolve(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy of the configuration with anchors and the number of codes from the metadata of the prepared data set.

    Values that are set are kept. If the data set is not prepared, the copy is left open: a checkpoint may determine
    them.
    """
    config = config.copy_and_resolve_references()
    _set_from_data(config)
    if config.phase == "expression" and not config.identity and config.random_identity:
        earlier = _random_identity(config)
        _set_from_data(earlier)
        config.random_identity = earlier.model
    return config


def _set_from_data(config: ml_collections.ConfigDict) -> None:
    model, phase = config.model, config.phase
    wants_anchors = phase == "identity" and model.kind == "ensemble" and not model.anchors
    if model.codes and not wants_anchors:
        return
    if config.data.build_examples:
        from jaxface.systems.nphm import data

        data.open_set(config)
    try:
        said = dataset_metadata.metadata(config.data.dataset, config.data.dir)
    except UserError:
        return
    if wants_anchors:
        model.anchors = tuple(said["anchors"])
    model.codes = model.codes or said["subjects" if phase == "identity" else "scans"]["train"]


def init_identity(model: IdentityModel, codes: int, key: jax.Array) -> tuple[Tree, Tree]:
    """Fresh parameters of phase 1: {"identity": network, "codes": (codes,code)}, the latter where codes > 0."""
    keys = jax.random.split(key)
    spread = CODE_SPREAD / model.code_dim**0.5
    return {"identity": model.init(keys[0]), **_table(keys[1], codes, model.code_dim, spread)}, {}


def init_expression(model: Deformation, codes: int, key: jax.Array) -> tuple[Tree, Tree]:
    """Fresh parameters of phase 2: {"expression": network, "codes": (codes,code)}."""
    keys = jax.random.split(key)
    return {"expression": model.init(keys[0]), **_table(keys[1], codes, model.code_dim, EXPRESSION_SPREAD)}, {}


def earlier_config(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The phase-1 configuration that a phase-2 one stands on. UserError where none is named, or it is none."""
    if config.identity:
        earlier = config_file.load(config.identity)
        if earlier.get("system") != config.system or earlier.get("phase") != "identity":
            raise UserError(f"config.identity: {config.identity} is no workdir of an identity model of {config.system}")
        return earlier
    if not config.random_identity:
        raise UserError(
            "config.identity is empty: train the identity model first (configs/nphm_identity.py) and name its workdir"
        )
    return _random_identity(config)


def _random_identity(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The phase-1 configuration of `config.random_identity`, on the data of the phase-2 one."""
    earlier = ml_collections.ConfigDict({"data": config.data.to_dict(), "phase": "identity"})
    earlier.model = config.random_identity.copy_and_resolve_references()
    return earlier


def earlier_params(config: ml_collections.ConfigDict, earlier: ml_collections.ConfigDict) -> Tree:
    """Phase 1's {"identity": network, "codes": table}; untrained ones, from the seed, where the smoke test wants so."""
    if config.identity:
        return _loaded(config.identity)
    model = identity_model(earlier)
    return jax.jit(functools.partial(init_identity, model, earlier.model.codes))(jax.random.key(config.seed))[0]


@functools.lru_cache(maxsize=2)
def _loaded(folder: str) -> Tree:
    return pretrained.load(folder)[1]


def _table(key: jax.Array, rows: int, width: int, spread: float) -> Tree:
    return {"codes": spread * jax.random.normal(key, (rows, width))} if rows else {}
