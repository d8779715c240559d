// Offsets of strings, which count UTF-16 units here, and code points in training data.

const ASTRAL = /[\u{10000}-\u{10ffff}]/gu;

// A function from UTF-16 offsets, none inside a surrogate pair, to code points.
export function toCodePoints(text) {
  const pairs = Array.from(text.matchAll(ASTRAL), (found) => found.index);
  return (offset) => offset - countBelow(pairs, offset);
}

// How many of the sorted numbers are below the limit.
function countBelow(numbers, limit) {
  let low = 0;
  let high = numbers.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (numbers[middle] < limit) low = middle + 1;
    else high = middle;
  }
  return low;
}

// The selected characters without white space at the ends, whole code points only; null where none are left.
export function trimmed(text, start, end) {
  if (insidePair(text, start)) start -= 1;
  if (insidePair(text, end)) end += 1;
  const chosen = text.slice(start, end);
  const first = start + (chosen.length - chosen.trimStart().length);
  const last = end - (chosen.length - chosen.trimEnd().length);
  return first < last ? {start: first, end: last} : null;
}

function insidePair(text, at) {
  return at > 0 && at < text.length && text.codePointAt(at - 1) > 0xffff;
}

// The same length, with half surrogate pairs, which are no text and which the service refuses, replaced.
export function wellFormed(text) {
  return text.toWellFormed ? text.toWellFormed() : text.replace(/\p{Surrogate}/gu, "\ufffd");
}
