"""Networks and random parameters of a configuration, and the identity model that an expression model deforms."""

import dataclasses
import functools
from typing import Any

import jax
import ml_collections

from jaxface import config_file, prepared_data, pretrained
from jaxface.errors import UserError
from jaxface.system import Tree
from jaxface.systems.nphm.networks.deformation import Deformation
from jaxface.systems.nphm.networks.ensemble import Ensemble
from jaxface.systems.nphm.networks.npm import NPM, IdentityModel

# Expected norm of a randomly initialised identity code, and standard deviation of each entry of an expression code.
IDENTITY_CODE_NORM = 0.1
EXPRESSION_CODE_STD = 0.01


def identity_model(config: ml_collections.ConfigDict) -> IdentityModel:
    """The identity model of a configuration of phase 1. UserError if its anchors do not match its pairs."""
    model = config.model
    if model.kind == "single":
        return NPM(model.code, model.width, model.layers, model.narrow_skip)
    if model.kind != "ensemble":
        raise UserError(f'config.model.kind: unknown {model.kind!r}; choose "ensemble" or "single"')
    anchors = tuple(float(number) for number in model.anchors)
    if not anchors or len(anchors) % 3 or 2 * model.pairs > len(anchors) // 3:
        raise UserError(
            f"config.model.anchors: {len(anchors)} numbers are not 3 for each of at least {max(2 * model.pairs, 1)} "
            f"anchors; pass --anchors FILE to launch.convert or prepare the data set {config.data.dataset}"
        )
    sizes = (model.global_code, model.local_code, model.width, model.layers, model.position_width)
    return Ensemble(anchors, model.pairs, *sizes, model.narrow_skip)


def expression_model(config: ml_collections.ConfigDict, identity: IdentityModel) -> Deformation:
    """The deformation network of a configuration of phase 2, for an identity model."""
    model = config.model
    sizes = (model.code, model.compressed, model.width, model.layers)
    return Deformation(identity.code_dim, identity.anchor_count, *sizes, model.narrow_skip)


def training_model(net: Any, config: ml_collections.ConfigDict) -> Any:
    """The network as it is trained: with the type of computation and the rematerialisation of `config.model`.

    Everything else evaluates `net` itself, in float32: a surface is located more finely than bfloat16 resolves.
    """
    return dataclasses.replace(net, dtype=config.model.dtype, remat=config.model.remat)


def resolve(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy of the configuration with anchors and the number of codes from the metadata of the prepared data set.

    Values that are set are kept. If the data set is not prepared they stay unset: a checkpoint may determine them.
    """
    config = config.copy_and_resolve_references()
    _set_from_data(config)
    if config.phase == "expression" and not config.identity and config.random_identity:
        identity = _random_identity_config(config)
        _set_from_data(identity)
        config.random_identity = identity.model
    return config


def _set_from_data(config: ml_collections.ConfigDict) -> None:
    """Sets `config.model.anchors` and `.codes` from the data set's metadata, where they are unset."""
    model, phase = config.model, config.phase
    needs_anchors = phase == "identity" and model.kind == "ensemble" and not model.anchors
    if model.codes and not needs_anchors:
        return
    if config.data.build_examples:
        from jaxface.systems.nphm import data

        data.open_dataset(config)
    prepared_data.check_known(config.data.dataset, config.data.dir)
    try:
        metadata = dataset_metadata(config.data.dataset, config.data.dir)
    except UserError:
        return
    if needs_anchors:
        model.anchors = tuple(metadata["anchors"])
    model.codes = model.codes or metadata["subjects" if phase == "identity" else "scans"]["train"]


def dataset_metadata(dataset: str, data_dir: str) -> dict:
    """Metadata of the newest version of a prepared data set, read without TensorFlow.

    Returns:
        `anchors` (3A numbers, model units), `subjects` and `scans` ({"train": …, "test": …}).

    Raises:
        UserError: the data set is not prepared, or is of another kind.
    """
    metadata = prepared_data.read_metadata(dataset, data_dir)
    counts = [metadata.get(name) for name in ("subjects", "scans")]
    if "anchors" not in metadata or not all(isinstance(count, dict) and "train" in count for count in counts):
        raise UserError(f"config.data.dataset: {dataset} has no anchors; use a data set of head surfaces")
    return metadata


def init_identity(model: IdentityModel, codes: int, key: jax.Array) -> tuple[Tree, Tree]:
    """Random parameters {"identity": network, "codes": (codes,C)} of phase 1, without codebook if `codes` is 0; {}."""
    keys = jax.random.split(key)
    std = IDENTITY_CODE_NORM / model.code_dim**0.5
    return {"identity": model.init(keys[0]), **_codebook(keys[1], codes, model.code_dim, std)}, {}


def init_expression(model: Deformation, codes: int, key: jax.Array) -> tuple[Tree, Tree]:
    """Random parameters {"expression": network, "codes": (codes,E)} of phase 2, without codebook if 0; and {}."""
    keys = jax.random.split(key)
    return {"expression": model.init(keys[0]), **_codebook(keys[1], codes, model.code_dim, EXPRESSION_CODE_STD)}, {}


def _codebook(key: jax.Array, rows: int, code_dim: int, std: float) -> Tree:
    return {"codes": std * jax.random.normal(key, (rows, code_dim))} if rows else {}


def identity_config(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The configuration of the identity model that an expression model deforms.

    UserError if the expression configuration names none, or a workdir of another kind.
    """
    if config.identity:
        identity = config_file.load(config.identity)
        if identity.get("system") != config.system or identity.get("phase") != "identity":
            raise UserError(
                f"config.identity: {config.identity} is not a workdir of an identity model of nphm; "
                "pass one of configs/nphm_identity.py"
            )
        return identity
    if not config.random_identity:
        raise UserError(
            "config.identity is empty; train an identity model first (configs/nphm_identity.py) and pass its workdir"
        )
    return _random_identity_config(config)


def _random_identity_config(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The identity configuration of `config.random_identity`, with the data of the expression configuration."""
    identity = ml_collections.ConfigDict({"data": config.data.to_dict(), "phase": "identity"})
    identity.model = config.random_identity.copy_and_resolve_references()
    return identity


def identity_params(config: ml_collections.ConfigDict, identity: ml_collections.ConfigDict) -> Tree:
    """Parameters {"identity": network, "codes": codebook} of the identity model of an expression configuration.

    `identity` is its configuration. Without a workdir (`config.random_identity`) they are random, from `config.seed`.
    """
    if config.identity:
        return _load_params(config.identity)
    init = functools.partial(init_identity, identity_model(identity), identity.model.codes)
    return jax.jit(init)(jax.random.key(config.seed))[0]


@functools.lru_cache(maxsize=2)
def _load_params(folder: str) -> Tree:
    return pretrained.load(folder)[1]
