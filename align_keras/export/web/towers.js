// The towers: LiteRT models in WebAssembly, of @litertjs/core.

const WASM_FOLDER = new URL("../node_modules/@litertjs/core/wasm/", import.meta.url);

export class RuntimeMissing extends Error {}

/** Starts the runtime; returns the library. */
export async function startRuntime() {
  try {
    const litert = await import("@litertjs/core");
    await litert.loadLiteRt(WASM_FOLDER.href);
    return litert;
  } catch (error) {
    throw new RuntimeMissing(String(error.message ?? "a file of it is missing"));
  }
}

export class Tower {
  constructor(litert, model) {
    this.litert = litert;
    this.model = model;
  }

  /** @param {Uint8Array} file a .tflite model of one signature and one output. */
  static async load(litert, file) {
    return new Tower(litert, await litert.loadAndCompile(file, { accelerator: "wasm" }));
  }

  /**
   * @param {Object<string, ArrayLike<number>>} values by the names of the inputs.
   * @returns {Promise<Float32Array>} of unit length.
   */
  async embed(values) {
    const inputs = {};
    for (const { name, shape, dtype } of this.model.getInputDetails()) {
      const typed = dtype === "int32" ? Int32Array : Float32Array;
      inputs[name] = new this.litert.Tensor(typed.from(values[name]), shape);
    }
    const outputs = Object.values(await this.model.run(inputs));
    const embedding = Float32Array.from(await outputs[0].data());
    for (const tensor of [...Object.values(inputs), ...outputs]) tensor.delete();
    const length = Math.hypot(...embedding);
    return embedding.map((value) => value / length);
  }
}
