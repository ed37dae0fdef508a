// upload.js as an ES module.
import './upload.js';
export const { createUploader } = globalThis;
