// Downloads of files in the folder of the page.

export class MissingFileError extends Error {}

/**
 * Downloads a file.
 *
 * @param {string} path relative to the folder of the page.
 * @param {(bytes: number) => void} onProgress is called with the size of each chunk.
 * @returns {Promise<Uint8Array>}
 */
export async function readFile(path, onProgress = () => {}) {
  let response;
  try {
    response = await fetch(new URL(`../${path}`, import.meta.url));
  } catch (error) {
    throw new MissingFileError(`${path} (${error.message})`);
  }
  if (!response.ok) throw new MissingFileError(`${path} (status ${response.status})`);
  const chunks = [];
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    chunks.push(value);
    onProgress(value.length);
  }
  return new Uint8Array(await new Blob(chunks).arrayBuffer());
}

export async function readText(path, onProgress) {
  return new TextDecoder().decode(await readFile(path, onProgress));
}
