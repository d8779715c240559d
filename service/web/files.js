// Texts that come as files: chosen, or dropped anywhere on the page.

import {Problem} from "./api.js";

const MOST_BYTES = 16 * 1024 * 1024;

// Its text: UTF-8, UTF-16 with its mark, or else what Windows wrote. Throws Problem.
export async function textOf(file) {
  if (file.size > MOST_BYTES) {
    throw new Problem(`The file has ${file.size.toLocaleString("en")} bytes; at most ${MOST_BYTES.toLocaleString("en")} are read here.`, 0);
  }
  const bytes = new Uint8Array(await file.arrayBuffer());
  const text = decoded(bytes);
  if (text.includes("\0")) throw new Problem("This is not a text file: it holds bytes that are no text.", 0);
  return text;
}

function decoded(bytes) {
  const [first, second] = bytes;
  if (first === 0xff && second === 0xfe) return new TextDecoder("utf-16le").decode(bytes);
  if (first === 0xfe && second === 0xff) return new TextDecoder("utf-16be").decode(bytes);
  try {
    return new TextDecoder("utf-8", {fatal: true}).decode(bytes);
  } catch {
    return new TextDecoder("windows-1252").decode(bytes);
  }
}

// onText(text) and onProblem(error) for what is dropped; `veil` is shown while something hovers.
export function acceptDrops(veil, onText, onProblem) {
  const takes = (event) => event.dataTransfer.types.includes("Files");
  addEventListener("dragover", (event) => {
    if (!takes(event)) return; // dragged text goes where it is dropped, as ever
    event.preventDefault();
    veil.hidden = false;
  });
  addEventListener("dragleave", (event) => {
    if (event.relatedTarget === null) veil.hidden = true;
  });
  addEventListener("drop", async (event) => {
    veil.hidden = true;
    if (!takes(event)) return;
    event.preventDefault();
    const [file] = event.dataTransfer.files;
    if (file) await textOf(file).then(onText, onProblem);
  });
}

export function download(name, content, mediaType) {
  const url = URL.createObjectURL(new Blob([content], {type: mediaType}));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
