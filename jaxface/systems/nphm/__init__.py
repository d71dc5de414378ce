"""NPHM, neural parametric head models (Giebenhain et al., CVPR 2023), and NPM."""

import functools

import ml_collections

from jaxface import config_values, run_length
from jaxface.system import ConversionInput, Evaluator, System
from jaxface.systems.nphm import decoder, losses, metrics, model, predict, raw, torch_weights
from jaxface.systems.nphm.networks import codebook
from jaxface.systems.nphm.values import VALUES

# The workdir of the identity model that an expression model deforms.
DEPENDENCIES = ("identity",)
CONVERSION_INPUTS = {
    "anchors": ConversionInput("model.anchors", torch_weights.read_anchors, ".npy file of the mean anchors (A,3)"),
    "identity": ConversionInput("identity", str, "for the expression model: workdir of the identity model"),
}


def resolve(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy of `config` with the mean anchors, the number of codes and the steps of its data set, if it is prepared.

    Raises UserError for values outside their range.
    """
    config_values.check(config, VALUES)
    split = "train" if config.phase == "identity" else "train_expressions"
    resolved = run_length.resolve(model.resolve(config), split)
    config_values.check(resolved, VALUES)
    return resolved


def build(config: ml_collections.ConfigDict) -> System:
    """The system of phase 1 or 2 (configs/nphm_identity.py, configs/nphm_expression.py), resolved.

    Raises UserError if values do not fit together.
    """
    config = resolve(config)
    return (_identity if config.phase == "identity" else _expression)(config)


def _identity(config: ml_collections.ConfigDict) -> System:
    net = model.identity_model(config)
    return System(
        init=functools.partial(model.init_identity, net, config.model.codes),
        loss=functools.partial(
            losses.identity_loss, model.training_model(net, config), config.loss, config.model.chunk
        ),
        preprocess_on_device=functools.partial(losses.add_space_points, stride=config.data.near_surface_stride),
        raw=raw.identity_raw(net, config.model.replicate_last_point_bug),
        inputs={"points": "B, N, 3", "identity": f"B, {net.code_dim}"},
        predict=predict.bind(config),
        head=functools.partial(decoder.decoder, config),
        from_torch=functools.partial(torch_weights.from_torch, net, config),
        **_data(config, "identity", functools.partial(metrics.score_identity, net, config)),
    )


def _expression(config: ml_collections.ConfigDict) -> System:
    identity_config = model.identity_config(config)
    identity = model.identity_model(identity_config)
    net = model.expression_model(config, identity)
    constants = functools.partial(model.identity_params, config, identity_config)
    return System(
        init=functools.partial(model.init_expression, net, config.model.codes),
        constants=constants,
        loss=functools.partial(losses.expression_loss, model.training_model(net, config), identity, config.loss),
        preprocess_on_device=losses.add_cube_points,
        raw=raw.expression_raw(identity, net, constants, identity_config.model.replicate_last_point_bug),
        inputs={"points": "B, N, 3", "identity": f"B, {identity.code_dim}", "expression": f"B, {net.code_dim}"},
        predict=predict.bind(config),
        head=functools.partial(decoder.decoder, config),
        from_torch=functools.partial(torch_weights.from_torch, net, config),
        **_data(config, "expression", functools.partial(metrics.score_expression, net, identity, config)),
    )


def _data(config: ml_collections.ConfigDict, phase: str, score) -> dict:
    """The members of `System` that both phases share; TensorFlow is imported when the first batch is requested."""

    def batches(kind: str, *arguments):
        from jaxface.systems.nphm import data

        return getattr(data, f"{phase}_{kind}")(config, *arguments)

    return {
        "optimizer": codebook.optimizer(config.optim, config.steps, config.batch_size),
        "train_data": functools.partial(batches, "stream"),
        "evaluators": {
            name: Evaluator(functools.partial(batches, "eval", name), score, metrics.summarise, config.eval_every)
            for name in config.data.evaluate
        },
    }
