// What is copied: the persons as JSON, the request as a curl command, the tokens as CoNLL columns.

import {toCodePoints} from "./offsets.js";
import {overlaps} from "./corrections.js";

// A longer argument is refused by the kernel (Linux: 128 KiB); a here-document is not.
const MOST_ARGUMENT_CHARS = 30_000;
const END_OF_BODY = "END_OF_BODY";

export function asJson(text, persons, model) {
  const at = toCodePoints(text);
  const shown = persons.map(({start, end, score}) => ({
    text: text.slice(start, end),
    start: at(start),
    end: at(end),
    ...(score === undefined ? {added: true} : {score}),
  }));
  return JSON.stringify({model, offset_unit: "codepoint", text, persons: shown}, null, 1);
}

export function asCurl(origin, request, needsKey) {
  const body = JSON.stringify(request);
  const command =
    `curl -s ${origin}/v1/tag -H 'content-type: application/json'` +
    (needsKey ? ' -H "authorization: Bearer $KEY"' : "");
  if (body.length > MOST_ARGUMENT_CHARS) {
    return `${command} --data-binary @- <<'${END_OF_BODY}'\n${body}\n${END_OF_BODY}\n`;
  }
  return `${command} -d '${body.replaceAll("'", "'\\''")}'`;
}

// A token and its IOB2 label a line, an empty line after each sentence. As in training, an edge of a
// person inside a token cuts the token, and a person across a sentence's end joins the two.
export function asConll(sentences, persons, text) {
  const lines = [];
  let next = 0;
  for (const {tokens} of sentences) {
    if (lines.length && !persons.some((one) => reaches(one, lines.at(-1), tokens[0]))) lines.push(null);
    for (const token of tokens) {
      while (next < persons.length && persons[next].end <= token.start) next++;
      lines.push(...piecesOf(token, persons, next));
    }
  }
  return lines.map((piece) => (piece ? `${text.slice(piece.start, piece.end)}\t${piece.label}` : "") + "\n").join("");
}

const reaches = (person, before, after) => person.start < before.end && after.start < person.end;

function piecesOf(token, persons, first) {
  const pieces = [];
  let at = token.start;
  for (let i = first; i < persons.length && persons[i].start < token.end; i++) {
    const person = persons[i];
    if (!overlaps(person, token)) continue;
    if (person.start > at) pieces.push({start: at, end: person.start, label: "O"});
    const start = Math.max(person.start, at);
    const end = Math.min(person.end, token.end);
    pieces.push({start, end, label: start === person.start ? "B-PER" : "I-PER"});
    at = end;
  }
  if (at < token.end) pieces.push({start: at, end: token.end, label: "O"});
  return pieces;
}

// Resolves when the clipboard holds it.
export async function toClipboard(content) {
  if (navigator.clipboard && isSecureContext) return navigator.clipboard.writeText(content);
  // Browsers give pages the clipboard over https and on localhost only; this way works on all.
  const area = document.createElement("textarea");
  area.value = content;
  area.className = "sr";
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}
