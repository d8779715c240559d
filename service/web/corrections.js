// What somebody corrected in one text, apart from where it is shown or kept.
//
// corrections: {added: [span], removed: [span]}; a span is {start, end}, UTF-16 units, half open.
// An added span is a person whatever the model says; a removed one, and what overlaps it, is none.
//
// grown: corrections that count for nothing as long as a letter touches them: "Ron" is not what was
// marked once it is "Ronald", and is again once "Once Ron" is typed to its end or "ald" is taken back.

export const NONE = Object.freeze({added: [], removed: []});

const WORD_ENDS = /[\p{L}\p{M}\p{N}]$/u;
const WORD_BEGINS = /^[\p{L}\p{M}\p{N}]/u;

export function count(corrections) {
  return corrections.added.length + corrections.removed.length;
}

export function overlaps(a, b) {
  return a.start < b.end && b.start < a.end;
}

const same = (a, b) => a.start === b.start && a.end === b.end;
const without = (spans, span) => spans.filter((each) => !overlaps(each, span));
const inOrder = (spans) => spans.sort((a, b) => a.start - b.start);

// The persons of the text, in order: the model's, as far as nothing overlaps them, and the added ones.
export function applied(persons, {added, removed}) {
  const taken = [...added, ...removed];
  const left = taken.length ? persons.filter((one) => !taken.some((span) => overlaps(span, one))) : persons;
  return inOrder([...left, ...added.map((span) => ({...span, added: true}))]);
}

// The removed spans that are still to be seen: those that no added one covers.
export function removedOf({added, removed}) {
  return removed.filter((span) => !added.some((other) => overlaps(other, span)));
}

// The span becomes a person, and nothing that it overlaps is one.
export function adding({added, removed}, span, persons) {
  if (persons.some((one) => same(one, span)) && !removed.some((one) => overlaps(one, span))) {
    return {added: without(added, span), removed};
  }
  return {added: inOrder([...without(added, span), {start: span.start, end: span.end}]), removed: without(removed, span)};
}

// A person that is shown becomes none; one that was added is forgotten.
export function removing({added, removed}, {start, end}) {
  const span = {start, end};
  if (added.some((one) => same(one, span))) return {added: added.filter((one) => !same(one, span)), removed};
  return {added, removed: inOrder([...without(removed, span), span])};
}

// A removed span is left to the model again.
export function restoring({added, removed}, span) {
  return {added, removed: removed.filter((one) => !same(one, span))};
}

// The corrections after an edit of the text, grown ones included: moved along, and dropped where the
// edit touched them.
export function moved({added, removed, grown = NONE}, before, after) {
  const edit = editOf(before, after);
  const left = {added: [], removed: [], grown: {added: [], removed: []}};
  const sort = (kind, span, hadGrown) => {
    const now = shifted(span, edit);
    if (!now || (hadGrown && [...left.added, ...left.removed].some((one) => overlaps(one, now)))) return;
    const grows = ["start", "end"]
      .some((edge) => isInsideWord(after, now[edge]) && (hadGrown || !isInsideWord(before, span[edge])));
    (grows ? left.grown : left)[kind].push(now);
  };
  for (const span of added) sort("added", span, false);
  for (const span of removed) sort("removed", span, false);
  for (const span of grown.added) sort("added", span, true);
  for (const span of grown.removed) sort("removed", span, true);
  return {added: inOrder(left.added), removed: inOrder(left.removed), grown: left.grown};
}

// What was replaced: before[start:end], now longer by `growth` (or shorter).
function editOf(before, after) {
  const most = Math.min(before.length, after.length);
  let start = 0;
  while (start < most && before.charCodeAt(start) === after.charCodeAt(start)) start++;
  let tail = 0;
  while (
    tail < most - start &&
    before.charCodeAt(before.length - 1 - tail) === after.charCodeAt(after.length - 1 - tail)
  ) tail++;
  return {start, end: before.length - tail, growth: after.length - before.length};
}

// Where the span is after the edit; null where the edit touched it.
function shifted({start, end}, edit) {
  if (end <= edit.start) return {start, end};
  return start < edit.end ? null : {start: start + edit.growth, end: end + edit.growth};
}

function isInsideWord(text, at) {
  return WORD_ENDS.test(text.slice(Math.max(0, at - 2), at)) && WORD_BEGINS.test(text.slice(at, at + 2));
}
