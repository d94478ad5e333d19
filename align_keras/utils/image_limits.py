"""How large an image may be, wherever one is read."""

# 192 MiB, four bytes a pixel: 8192 × 6144, as the sensors of 50 megapixels. A file
# of more may be a bomb, a few kilobytes that fill the memory. Decoding and blending
# take up to seven times as much.
MAX_DECODED_BYTES = 192 * 2**20
MAX_PIXELS = MAX_DECODED_BYTES // 4
