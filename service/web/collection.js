// The corrected texts, kept in this browser (localStorage), and as training data.
//
// A record: {id, text, added, removed, spans, isKept}. spans: all persons of the text, the model's
// included, as they were when it was last corrected; they always fit the record's own text.

import {toCodePoints, wellFormed} from "./offsets.js";

const PLACE = "nametag.corrections.1";

const isSpan = (span) => Number.isInteger(span?.start) && Number.isInteger(span?.end);
const areSpans = (spans) => Array.isArray(spans) && spans.every(isSpan);
const isRecord = (one) =>
  typeof one?.text === "string" && typeof one.id === "string" && [one.added, one.removed, one.spans].every(areSpans);

// All records, the oldest first. What something else wrote there is left out.
export function records() {
  try {
    const found = JSON.parse(localStorage.getItem(PLACE) ?? "[]");
    return Array.isArray(found) ? found.filter(isRecord) : [];
  } catch {
    return [];
  }
}

// Read before every change: other tabs change it too. False where the browser has no room left.
function change(edited) {
  try {
    localStorage.setItem(PLACE, JSON.stringify(edited(records())));
    return true;
  } catch {
    return false;
  }
}

export function put(record) {
  return change((all) => {
    const at = all.findIndex((one) => one.id === record.id);
    return at < 0 ? [...all, record] : all.with(at, record);
  });
}

export function drop(id) {
  return change((all) => all.filter((one) => one.id !== id));
}

export function clear() {
  localStorage.removeItem(PLACE);
}

// Calls when another tab changed it.
export function onChangeElsewhere(callback) {
  addEventListener("storage", (event) => {
    if (event.key === PLACE || event.key === null) callback();
  });
}

// Lines that `python -m training train` reads: offsets in code points.
export function asTrainingData(all) {
  return all.map(({text, spans}) => JSON.stringify(trainingRecord(text, spans)) + "\n").join("");
}

function trainingRecord(text, spans) {
  const at = toCodePoints(text);
  return {
    text: wellFormed(text),
    spans: spans.map(({start, end}) => ({start: at(start), end: at(end), label: "PER"})),
  };
}
