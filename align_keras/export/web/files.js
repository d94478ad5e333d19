// The page's own files.

export class FileMissing extends Error {}

/**
 * @param {string} path below the page's folder.
 * @param {(bytes: number) => void} onProgress is told how many bytes more came.
 * @returns {Promise<Uint8Array>}
 */
export async function readFile(path, onProgress = () => {}) {
  let response;
  try {
    response = await fetch(new URL(`../${path}`, import.meta.url));
  } catch (error) {
    throw new FileMissing(`${path} (${error.message})`);
  }
  if (!response.ok) throw new FileMissing(`${path} (status ${response.status})`);
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
