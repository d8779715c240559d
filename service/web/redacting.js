// A text and its persons in, the text without their names out, as POST /v1/redact makes it.

import {call} from "./api.js";
import {wellFormed} from "./offsets.js";

// With one key the invented names stay the same while somebody types. It dies with the page.
const KEY = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

let running = null;

// A text whose persons are marked, so that they and nobody else are replaced.
function partsOf(text, persons) {
  const parts = [];
  let at = 0;
  for (const {start, end} of persons) {
    parts.push(text.slice(at, start), {person: text.slice(start, end)});
    at = end;
  }
  return [...parts, text.slice(at)];
}

// {text, marks}; null where another call came first. mode: "label", "mask" or "pseudonym".
export async function redacted(text, persons, mode) {
  running?.abort();
  const mine = (running = new AbortController());
  const request = {
    texts: [partsOf(wellFormed(text), persons)],
    mode,
    offset_unit: "utf16",
    ...(mode === "pseudonym" && {key: KEY}),
  };
  try {
    const {texts: [one]} = await call("/v1/redact", request, mine.signal);
    const marks = one.replacements.map((each) => ({start: each.new_start, end: each.new_end, kind: "replaced"}));
    return {text: one.text, marks};
  } catch (error) {
    if (mine.signal.aborted) return null;
    throw error;
  }
}
