"""The contrastive loss, within a replica and across all of them."""

from align_keras.losses.contrastive_loss import contrastive_loss
from align_keras.losses.cross_replica import gather_replicas
