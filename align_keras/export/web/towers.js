// Encoders as LiteRT models that run in WebAssembly with @litertjs/core.

const WASM_FOLDER = new URL("../node_modules/@litertjs/core/wasm/", import.meta.url);

export class RuntimeLoadError extends Error {}

/** Loads @litertjs/core, starts its WebAssembly runtime, and returns the module. */
export async function startRuntime() {
  try {
    const litert = await import("@litertjs/core");
    const { liteRtWasm } = await litert.loadLiteRt(WASM_FOLDER.href);
    // LiteRT resizes open dimensions to the shapes of the inputs, but this check of
    // @litertjs/core 2.5.3 refuses all shapes of such inputs.
    liteRtWasm.checkTensorBufferCompatible = () => {};
    return litert;
  } catch (error) {
    throw new RuntimeLoadError(String(error.message ?? "one of its files is missing"));
  }
}

export class Tower {
  constructor(litert, model) {
    this.litert = litert;
    this.model = model;
  }

  /**
   * @param {object} litert the module that `startRuntime` returns.
   * @param {Uint8Array} file content of a .tflite file with one signature and one output.
   * @returns {Promise<Tower>}
   */
  static async load(litert, file) {
    return new Tower(litert, await litert.loadAndCompile(file, { accelerator: "wasm" }));
  }

  /**
   * @param {Object<string, ArrayLike<number>>} values input values by input names.
   * @returns {Promise<Float32Array>} embedding of unit length.
   */
  async embed(values) {
    const inputs = {};
    for (const { name, shape, dtype } of this.model.getInputDetails()) {
      const arrayType = dtype === "int32" ? Int32Array : Float32Array;
      const array = arrayType.from(values[name]);
      // The number and length of texts are open.
      const isOpen = shape.includes(-1);
      inputs[name] = new this.litert.Tensor(array, isOpen ? [1, array.length] : shape);
    }
    const outputs = Object.values(await this.model.run(inputs));
    const embedding = Float32Array.from(await outputs[0].data());
    for (const tensor of [...Object.values(inputs), ...outputs]) tensor.delete();
    const length = Math.hypot(...embedding);
    return embedding.map((value) => value / length);
  }
}
