"""Gradient checkpointing of the blocks of a network."""

import flax.linen as nn


def by_block(block: type[nn.Module], enabled: bool) -> type[nn.Module]:
    """The module `block`, called as `block(…)(x, train)`; `enabled`: its activations are recomputed for its gradient.

    Between the forward and the backward pass only the inputs of the blocks are then kept in memory (rematerialisation;
    Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016). Parameters and their paths are the same.
    """
    return nn.remat(block, static_argnums=(2,)) if enabled else block
