// A text and its persons in, the text without their names out, as POST /v1/redact makes it.

import {call} from "./api.js";
import {wellFormed} from "./offsets.js";

// With one key the invented names stay the same while somebody types. It dies with the page.
const KEY = Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");

let running = null;

// {text, marks}; null where another call came first. mode: "label", "mask" or "pseudonym".
export async function redacted(text, persons, mode) {
  running?.abort();
  const mine = (running = new AbortController());
  const request = {
    texts: [wellFormed(text)],
    mode,
    offset_unit: "utf16",
    persons: [persons.map(({start, end}) => ({start, end}))],
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
