// From a picture's file to the image tower's input, as
// align_keras.images.preprocess_image_bytes: decode, resize, center crop.

// How much of a picture is read from the canvas at a time.
const PIXELS_PER_STRIP = 2 ** 20;

export class PictureError extends Error {}

/**
 * @param {Blob} file JPEG, PNG, GIF (first frame), WebP or BMP; what else a browser
 *     decodes is refused, as Python refuses it.
 * @param {number} size of the tower's input, in pixels a side.
 * @param {number} resizeSize the side to resize to before the crop.
 * @param {number} maxPixels of more than so many the picture is refused.
 * @returns {Promise<Uint8ClampedArray>} size × size × 3, RGB.
 */
export async function readPicture(file, size, resizeSize, maxPixels) {
  let bitmap;
  try {
    checkKind(new DataView(await file.slice(0, 34).arrayBuffer()));
    // The stored numbers, as Python reads them: colors aren't managed. Browsers turn
    // JPEG and PNG upright; WebP isn't by all.
    const orientation = await webpOrientation(file);
    bitmap = await createImageBitmap(file, {
      colorSpaceConversion: "none",
      imageOrientation: orientation === null ? "from-image" : "none",
    });
    if (orientation > 1) bitmap = turn(bitmap, orientation);
  } catch {
    throw new PictureError("it is no picture that this browser can read");
  }
  try {
    const pixels = bitmap.width * bitmap.height;
    if (pixels > maxPixels) {
      const [count, limit] = [pixels, maxPixels].map((own) => (own / 1e6).toFixed(1));
      throw new PictureError(`it has ${count} million pixels, and at most ${limit} can be read`);
    }
    const first = Math.floor((resizeSize - size) / 2);
    const columns = spans(bitmap.width, resizeSize, first, size);
    const rows = spans(bitmap.height, resizeSize, first, size);
    return resizeRows(resizeColumns(bitmap, columns, rows), rows, size);
  } finally {
    bitmap.close();
  }
}

/** The EXIF orientation of a WebP file, 1 where it has none, null for other files. */
async function webpOrientation(file) {
  const head = new DataView(await file.slice(0, 30).arrayBuffer());
  if (head.byteLength < 30 || head.getUint32(0) !== 0x52494646) return null;
  const isExtended = head.getUint32(12) === 0x56503858; // VP8X
  if (!isExtended || !(head.getUint8(20) & 8)) return 1;
  for (let start = 12; start + 8 <= file.size; ) {
    const chunk = new DataView(await file.slice(start, start + 8).arrayBuffer());
    const size = chunk.getUint32(4, true);
    if (chunk.getUint32(0) === 0x45584946) {
      return exifOrientation(await file.slice(start + 8, start + 8 + size).arrayBuffer());
    }
    start += 8 + size + (size % 2);
  }
  return 1;
}

/** The orientation of a TIFF header and its first directory, or 1. */
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
      view.getUint32(entry + 8); // The entry is whole.
      const value = view.getUint16(entry + 8, isLittle);
      return value <= 8 ? value : 1;
    }
  } catch {
    // It ends before.
  }
  return 1;
}

function turn(bitmap, orientation) {
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

/** Throws unless a file begins as one of the kinds that align_keras reads. */
function checkKind(head) {
  const begins = (...bytes) =>
    bytes.length <= head.byteLength && bytes.every((byte, at) => head.getUint8(at) === byte);
  const isBitmap = begins(0x42, 0x4d);
  if (isBitmap) {
    // Header's size, planes, bits and compression.
    const isPlain = head.getUint32(14, true) >= 40 && head.getUint32(30, true) === 0;
    const bits = head.getUint16(28, true);
    if (isPlain && head.getUint16(26, true) === 1 && [1, 4, 8, 24, 32].includes(bits)) return;
  }
  const kinds = [
    [0xff, 0xd8, 0xff],
    [0x89, 0x50, 0x4e, 0x47],
    [0x47, 0x49, 0x46, 0x38],
    [0x52, 0x49, 0x46, 0x46],
  ];
  if (isBitmap || !kinds.some((bytes) => begins(...bytes))) throw new Error("another kind");
}

/**
 * The antialiased bilinear filter of tf.image.resize: for each of `count` new pixels
 * from `first` on, the old ones that it is made of and their weights.
 */
function spans(oldSize, newSize, first, count) {
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
