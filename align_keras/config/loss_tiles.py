"""Tiles of the contrastive loss with the option `tile_size: auto`."""

# Rows and columns of a tile.
AUTO_TILE_SIZE = 2048
# Logits of a replica up to which all tiles are kept for the gradient: 1 GiB of float32.
# Kept tiles save the fourth matrix product. Without it the plain form would be faster.
AUTO_KEPT_LOGITS = 2**28
