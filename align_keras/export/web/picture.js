// From a picture's file to the image tower's input, as
// align_keras.images.preprocess_image_bytes: decode, resize, centre crop.

// Pillow's limit, above which a file may be a bomb, a few kilobytes that fill the
// memory.
const MAX_PIXELS = 89_478_485;
// How much of a picture is read from the canvas at a time.
const PIXELS_PER_STRIP = 2 ** 20;

export class PictureError extends Error {}

/**
 * @param {Blob} file JPEG, PNG, GIF (first frame), BMP, WebP and what else the browser
 *     can decode.
 * @param {number} size of the tower's input, in pixels a side.
 * @param {number} resizeSize the side to resize to before the crop.
 * @returns {Promise<Uint8ClampedArray>} size × size × 3, RGB.
 */
export async function readPicture(file, size, resizeSize) {
  let bitmap;
  try {
    // The stored numbers, as Python reads them: colours aren't managed. Pictures are
    // turned upright, as the corpus builders do.
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new PictureError("it is no picture that this browser can read");
  }
  try {
    if (bitmap.width * bitmap.height > MAX_PIXELS) {
      const count = Math.round((bitmap.width * bitmap.height) / 1e6);
      throw new PictureError(`it has ${count} million pixels, and at most 89 can be read`);
    }
    const first = Math.floor((resizeSize - size) / 2);
    const columns = spans(bitmap.width, resizeSize, first, size);
    const rows = spans(bitmap.height, resizeSize, first, size);
    return resizeRows(resizeColumns(bitmap, columns, rows), rows, size);
  } finally {
    bitmap.close();
  }
}

/**
 * The antialiased bilinear filter of tf.image.resize: for each of `count` new pixels
 * from `first` on, the old ones that it is made of and their weights.
 */
function spans(oldSize, newSize, first, count) {
  const step = oldSize / newSize;
  const radius = Math.max(step, 1);
  return Array.from({ length: count }, (_, position) => {
    const centre = (first + position + 0.5) * step;
    const start = Math.max(Math.ceil(centre - radius - 0.5), 0);
    const end = Math.min(Math.floor(centre + radius - 0.5), oldSize - 1) + 1;
    const weights = Array.from({ length: end - start }, (_, offset) =>
      Math.max(1 - Math.abs(start + offset + 0.5 - centre) / radius, 0),
    );
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return { start, weights: weights.map((weight) => weight / sum) };
  });
}

/** Resizes each row of a bitmap that `rows` needs; reads the bitmap in strips. */
function resizeColumns(bitmap, columns, rows) {
  const { width, height } = bitmap;
  const stripHeight = Math.max(1, Math.min(height, Math.floor(PIXELS_PER_STRIP / width)));
  const canvas = new OffscreenCanvas(width, stripHeight);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.imageSmoothingEnabled = false;
  const last = rows.at(-1);
  const end = last.start + last.weights.length;
  const resized = new Float32Array(height * columns.length * 3);
  for (let top = rows[0].start; top < end; top += stripHeight) {
    const count = Math.min(stripHeight, end - top);
    // Transparent pictures lie on white, as the corpus builders do it.
    context.fillStyle = "white";
    context.fillRect(0, 0, width, count);
    context.drawImage(bitmap, 0, top, width, count, 0, 0, width, count);
    const { data } = context.getImageData(0, 0, width, count);
    for (let row = 0; row < count; row++) {
      resizeRow(data, row * width * 4, columns, resized, (top + row) * columns.length * 3);
    }
  }
  return resized;
}

function resizeRow(data, from, columns, resized, to) {
  for (const { start, weights } of columns) {
    let red = 0;
    let green = 0;
    let blue = 0;
    let position = from + start * 4;
    for (const weight of weights) {
      red += weight * data[position];
      green += weight * data[position + 1];
      blue += weight * data[position + 2];
      position += 4;
    }
    resized[to++] = red;
    resized[to++] = green;
    resized[to++] = blue;
  }
}

function resizeRows(values, rows, size) {
  const stride = size * 3;
  // It rounds halves to even and clips, as Python does.
  const pixels = new Uint8ClampedArray(size * stride);
  for (const [row, { start, weights }] of rows.entries()) {
    for (let column = 0; column < stride; column++) {
      let sum = 0;
      for (const [offset, weight] of weights.entries()) {
        sum += weight * values[(start + offset) * stride + column];
      }
      pixels[row * stride + column] = sum;
    }
  }
  return pixels;
}
