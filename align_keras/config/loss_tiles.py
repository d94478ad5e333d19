"""Tiles of the contrastive loss with the option `tile_size: auto`."""

# Number of rows and columns of a tile.
AUTO_TILE_SIZE = 2048
# Number of logits of a replica, 1 GiB in float32. Up to this number, all tiles are
# stored for the gradient, which saves the fourth matrix product. If the tiles had to be
# computed again, the loss without tiles would be faster.
AUTO_SAVED_LOGITS = 2**28
