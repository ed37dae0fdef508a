// upload.js as an ES module; its types and documentation are in upload.d.mts.
import './upload.js';
export const { createUploader } = globalThis;
