"""The weight of each loss term under a configuration."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scsiameseclu_jax import Config


def weights(config: "Config") -> dict[str, float]:
    """Return the weights that the terms bring along, those of the configuration in their place."""
    import scsiameseclu_jax.functional as F

    return {term.name: term.weight for term in F.TERMS} | dict(config.losses)
