"""Losses of image and text embeddings over the batch of all replicas."""

from align_keras.losses.contrastive_loss import ContrastiveLoss, contrastive_loss
from align_keras.losses.cross_replica import gather_replicas
from align_keras.losses.distillation_loss import DistillationLoss
from align_keras.losses.matryoshka_loss import MatryoshkaLoss
from align_keras.losses.pair_loss import PairLoss
from align_keras.losses.sigmoid_loss import SigmoidLoss

__all__ = [
    "ContrastiveLoss",
    "DistillationLoss",
    "MatryoshkaLoss",
    "PairLoss",
    "SigmoidLoss",
    "contrastive_loss",
    "gather_replicas",
]
