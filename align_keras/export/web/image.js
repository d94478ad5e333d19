// Preprocessing of image files for the image tower. It decodes, resizes and crops as
// align_keras.images.preprocess_image_bytes does.

// Larger images are read from the canvas in strips, which limits the memory.
const PIXELS_PER_STRIP = 2 ** 20;

export class ImageError extends Error {}

/**
 * Reads an image file.
 *
 * @param {Blob} file JPEG, PNG, GIF (first frame), WebP or BMP. Other formats are
 *     rejected even if the browser can decode them, since the Python package rejects them.
 * @param {number} size side of the cropped image in pixels, which the tower expects.
 * @param {number} resizeSize side of the image in pixels before the crop.
 * @param {number} maxPixels maximum number of pixels of the image in the file.
 * @returns {Promise<Uint8ClampedArray>} RGB values, size × size × 3.
 * @throws {ImageError} if the file cannot be decoded or has too many pixels.
 */
export async function readImage(file, size, resizeSize, maxPixels) {
  let bitmap;
  try {
    checkFormat(new DataView(await file.slice(0, 34).arrayBuffer()));
    // The Python package ignores color profiles, so the browser must ignore them too.
    // All browsers apply the EXIF orientation of JPEG and PNG files, but some ignore that
    // of WebP files. This function applies it to WebP files itself.
    const orientation = await webpOrientation(file);
    bitmap = await createImageBitmap(file, {
      colorSpaceConversion: "none",
      imageOrientation: orientation === null ? "from-image" : "none",
    });
    if (orientation > 1) bitmap = applyOrientation(bitmap, orientation);
  } catch {
    throw new ImageError("This browser cannot decode it as an image");
  }
  try {
    const pixels = bitmap.width * bitmap.height;
    if (pixels > maxPixels) {
      const [count, limit] = [pixels, maxPixels].map((value) => (value / 1e6).toFixed(1));
      throw new ImageError(`It has ${count} million pixels, but the limit is ${limit} million`);
    }
    const first = Math.floor((resizeSize - size) / 2);
    const columns = resizeWeights(bitmap.width, resizeSize, first, size);
    const rows = resizeWeights(bitmap.height, resizeSize, first, size);
    return resizeRows(resizeColumns(bitmap, columns, rows), rows, size);
  } finally {
    bitmap.close();
  }
}

/** Returns the EXIF orientation of a WebP file, 1 by default, or null for other formats. */
async function webpOrientation(file) {
  const header = new DataView(await file.slice(0, 30).arrayBuffer());
  const isWebp = header.byteLength >= 30 && header.getUint32(0) === 0x52494646; // RIFF
  if (!isWebp) return null;
  const isExtended = header.getUint32(12) === 0x56503858; // VP8X
  const hasExif = isExtended && header.getUint8(20) & 8;
  if (!hasExif) return 1;
  for (let start = 12; start + 8 <= file.size; ) {
    const chunk = new DataView(await file.slice(start, start + 8).arrayBuffer());
    const size = chunk.getUint32(4, true);
    const isExif = chunk.getUint32(0) === 0x45584946; // EXIF
    if (isExif) {
      return exifOrientation(await file.slice(start + 8, start + 8 + size).arrayBuffer());
    }
    start += 8 + size + (size % 2);
  }
  return 1;
}

/** Returns the orientation in the first directory of EXIF data, 1 by default. */
function exifOrientation(content) {
  const signature = String.fromCharCode(...new Uint8Array(content.slice(0, 6)));
  const view = new DataView(content, signature === "Exif\0\0" ? 6 : 0);
  try {
    const isLittle = view.getUint16(0) !== 0x4d4d;
    const start = view.getUint32(4, isLittle);
    const count = view.getUint16(start, isLittle);
    for (let entry = start + 2; entry < start + 2 + 12 * count; entry += 12) {
      const isOrientation =
        view.getUint16(entry, isLittle) === 0x0112 &&
        view.getUint16(entry + 2, isLittle) === 3 &&
        view.getUint32(entry + 4, isLittle) === 1;
      if (!isOrientation) continue;
      // The value takes the first two of four bytes. Reading all four throws an error if
      // the entry is truncated.
      view.getUint32(entry + 8);
      const value = view.getUint16(entry + 8, isLittle);
      return value <= 8 ? value : 1;
    }
  } catch {
    // Truncated data have no orientation.
  }
  return 1;
}

/** Returns a bitmap that is rotated and mirrored by its EXIF orientation. */
function applyOrientation(bitmap, orientation) {
  const { width, height } = bitmap;
  const isTransposed = orientation >= 5;
  const canvas = new OffscreenCanvas(...(isTransposed ? [height, width] : [width, height]));
  const context = canvas.getContext("2d");
  if ([2, 3, 6, 7].includes(orientation)) context.transform(-1, 0, 0, 1, canvas.width, 0);
  if ([3, 4, 7, 8].includes(orientation)) context.transform(1, 0, 0, -1, 0, canvas.height);
  if (isTransposed) context.transform(0, 1, 1, 0, 0, 0);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return canvas.transferToImageBitmap();
}

/**
 * Throws an error unless a file starts like one of the formats that align_keras reads.
 *
 * @param {DataView} header the first 34 bytes of the file.
 */
function checkFormat(header) {
  const startsWith = (...bytes) =>
    bytes.length <= header.byteLength &&
    bytes.every((byte, position) => header.getUint8(position) === byte);
  if (startsWith(0x42, 0x4d)) {
    if (isUncompressedBitmap(header)) return;
    throw new Error("compressed BMP");
  }
  const signatures = [
    [0xff, 0xd8, 0xff], // JPEG
    [0x89, 0x50, 0x4e, 0x47], // PNG
    [0x47, 0x49, 0x46, 0x38], // GIF
    [0x52, 0x49, 0x46, 0x46], // WebP
  ];
  if (!signatures.some((bytes) => startsWith(...bytes))) throw new Error("unknown format");
}

function isUncompressedBitmap(header) {
  const headerSize = header.getUint32(14, true);
  const compression = header.getUint32(30, true);
  const bitsPerPixel = header.getUint16(28, true);
  const planes = header.getUint16(26, true);
  const hasKnownDepth = [1, 4, 8, 24, 32].includes(bitsPerPixel);
  return headerSize >= 40 && compression === 0 && planes === 1 && hasKnownDepth;
}

/**
 * Returns the weights of the antialiased bilinear filter of tf.image.resize.
 *
 * @param {number} oldSize number of pixels before resizing.
 * @param {number} newSize number of pixels after resizing.
 * @param {number} first index of the first new pixel to compute.
 * @param {number} count number of new pixels to compute.
 * @returns {{start: number, weights: number[]}[]} for each new pixel, the weights of
 *     consecutive old pixels, the first of which has the index `start`.
 */
function resizeWeights(oldSize, newSize, first, count) {
  const step = oldSize / newSize;
  const radius = Math.max(step, 1);
  return Array.from({ length: count }, (_, position) => {
    const center = (first + position + 0.5) * step;
    const start = Math.max(Math.ceil(center - radius - 0.5), 0);
    const end = Math.min(Math.floor(center + radius - 0.5), oldSize - 1) + 1;
    const weights = Array.from({ length: end - start }, (_, offset) =>
      Math.max(1 - Math.abs(start + offset + 0.5 - center) / radius, 0),
    );
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return { start, weights: weights.map((weight) => weight / sum) };
  });
}

/**
 * Resizes a bitmap horizontally.
 *
 * @param {ImageBitmap} bitmap
 * @param {object[]} columns weights of `resizeWeights` for the columns.
 * @param {object[]} rows weights for the rows. Rows that have no weight are skipped.
 * @returns {Float32Array} RGB values, height of the bitmap × columns × 3.
 */
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
    // Transparent pixels get a white background, as in the Python package.
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

/** Resizes one row of RGBA values at `source` and writes RGB values to `target`. */
function resizeRow(data, source, columns, resized, target) {
  for (const { start, weights } of columns) {
    let red = 0;
    let green = 0;
    let blue = 0;
    let position = source + start * 4;
    for (const weight of weights) {
      red += weight * data[position];
      green += weight * data[position + 1];
      blue += weight * data[position + 2];
      position += 4;
    }
    resized[target++] = red;
    resized[target++] = green;
    resized[target++] = blue;
  }
}

/** Resizes the result of `resizeColumns` vertically. */
function resizeRows(values, rows, size) {
  const stride = size * 3;
  // A Uint8ClampedArray rounds halves to even and clips values, as the Python package does.
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
