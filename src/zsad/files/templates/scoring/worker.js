// Runs the graph of a whole image: RGB pixels in, score and map out.

let run = null;

self.addEventListener("message", async ({ data: { id, ...message } }) => {
  try {
    if (message.graph) {
      run = await open(message);
      self.postMessage({ id });
    } else {
      const answer = await run(message.blob);
      self.postMessage({ id, ...answer }, [answer.map.buffer]);
    }
  } catch (error) {
    self.postMessage({ id, error: error?.message || String(error) });
  }
});

async function open({ graph, runtime }) {
  const { InferenceSession, Tensor, env } = await import(`${runtime}ort.js`);
  env.wasm.wasmPaths = { mjs: `${runtime}program.js`, wasm: `${runtime}program.wasm` };
  // Threads need headers (COOP and COEP) that a plain file server does not send.
  env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency || 1) : 1;
  const session = await InferenceSession.create(graph, { executionProviders: ["wasm"] });
  return async (blob) => {
    const { width, height, rgb } = await pixels(blob);
    const { score, map } = await session.run({ image: new Tensor("uint8", rgb, [height, width, 3]) });
    return { width, height, score: score.data[0], map: map.data };
  };
}

// The levels of the file as zsad reads them: turned as the camera held it, without colour profiles, on white.
async function pixels(blob) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  } catch {
    throw new Error("this browser cannot read the file as an image: use JPEG, PNG, WebP, BMP or GIF");
  }
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const { data } = context.getImageData(0, 0, width, height);
  const rgb = new Uint8Array(3 * width * height);
  for (let from = 0, to = 0; to < rgb.length; from += 4, to += 3) {
    rgb[to] = data[from];
    rgb[to + 1] = data[from + 1];
    rgb[to + 2] = data[from + 2];
  }
  return { width, height, rgb };
}
