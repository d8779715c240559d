// The page: what is typed goes to the service, what it finds is shown, what is corrected is kept.
//
//   text → Tagging (the model's persons) → corrections applied → view, people, redaction, copies

import {call, hasKey, useKey} from "./api.js";
import {showCard} from "./card.js";
import * as collection from "./collection.js";
import {asConll, asCurl, asJson, toClipboard} from "./copying.js";
import * as corrections from "./corrections.js";
import {acceptDrops, download, textOf} from "./files.js";
import {trimmed} from "./offsets.js";
import {redacted} from "./redacting.js";
import {PeopleTable, percent, recordItems} from "./tables.js";
import {Tagging, requestOf} from "./tagging.js";
import {View} from "./view.js";

const EXAMPLE =
  "Harry Potter and Hermione Granger invented a new spell. “It will never work, Potter,” said Ron Weasley, " +
  "but Hermione only laughed. 🎉\n\n" +
  "A century earlier, Ada Lovelace wrote to Charles Babbage from London; Babbage answered in May.\n";
const TEXT = "nametag.text";
const TRAINING_FILE = "nametag-corrections.jsonl";

const $ = (id) => document.getElementById(id);
const tagging = new Tagging();
const view = new View($("view"), {onAct: toggle, onPoint: showTip});
const changedView = new View($("changed"));
const people = new PeopleTable($("people"), (mention) => {
  showAs("persons");
  view.reveal(mention.start);
});

// The text and its corrections; once it has some, they are one record of the collection, which has
// the text `stored` as long as no other tab writes it.
let doc = fresh("");
let answer = null; // the model's, for doc.text or for an earlier text
let persons = []; // the answer's, corrected
let model = null; // the name chosen; null is the service's default
let threshold = null; // null is the model's own labelling
let changed = null; // the redacted text that is shown
let isExample = false;
let replacesAll = false; // what is being typed or pasted

// A text is found again with what was corrected in it.
function fresh(text) {
  const known = text && collection.records().find((record) => record.text === text);
  const {id, added, removed, isKept} = known || {id: null, ...corrections.NONE, isKept: false};
  return {id: id ?? newId(), text, stored: known?.text, added, removed, isKept};
}

function recordOf({id}) {
  return collection.records().find((record) => record.id === id);
}

function newId() {
  return crypto.getRandomValues(new Uint32Array(3)).join("-");
}

// ---- the text

function setText(text) {
  $("text").value = text;
  doc = fresh($("text").value); // of which the browser made every line end a \n
  isExample = false;
  textChanged();
}

$("text").addEventListener("beforeinput", () => {
  const {selectionStart, selectionEnd, value} = $("text");
  replacesAll = selectionStart === 0 && selectionEnd === value.length;
});

$("text").addEventListener("input", () => {
  const text = $("text").value;
  const before = corrections.count(doc);
  const left = replacesAll ? corrections.NONE : corrections.moved(doc, doc.text, text);
  const n = corrections.count(left);
  // A text that keeps none of its corrections is another one; what was corrected stays collected.
  doc = n + corrections.count(left.grown ?? corrections.NONE) ? {...doc, text, ...left} : fresh(text);
  say("");
  if (n && n < before) say(`${before - n === 1 ? "A correction" : `${before - n} corrections`} went with the words you changed.`);
  replacesAll = isExample = false;
  textChanged();
});

// Whoever has not touched the example yet wants to replace it.
$("text").addEventListener("focus", () => isExample && $("text").select());

let timer = 0;
function textChanged() {
  const {text} = doc;
  const n = text.length;
  $("size").textContent = n ? `${n.toLocaleString("en")} characters` : "";
  $("clear").disabled = !n;
  clearTimeout(timer);
  // A pause in which a fast typist has typed on; longer where an answer takes longer.
  timer = setTimeout(refresh, n < 5_000 ? 40 : n < 50_000 ? 150 : 400);
}

async function refresh() {
  clearTimeout(timer);
  const {text} = doc;
  keepText(text);
  $("view").setAttribute("aria-busy", "true");
  try {
    const found = await tagging.answer(text, model, threshold);
    if (!found || doc.text !== text) return;
    answer = found;
    solved();
    keepCorrections();
    show();
  } catch (error) {
    fail(error);
  } finally {
    $("view").removeAttribute("aria-busy");
  }
}

// For when this tab is loaded again.
function keepText(text) {
  try {
    sessionStorage.setItem(TEXT, text);
  } catch {
    sessionStorage.removeItem(TEXT); // no room
  }
}

// ---- what is shown

function show() {
  const {text} = answer;
  persons = corrections.applied(answer.persons, doc);
  const removed = corrections.removedOf(doc);
  const marks = [
    ...persons.map((one) => markOf(text, one)),
    ...removed.map((one) => ({
      ...one,
      kind: "removed",
      label: `${text.slice(one.start, one.end)}, removed by you`,
      note: "Removed by you. Click to bring it back",
    })),
  ].sort((a, b) => a.start - b.start);
  view.show(text, marks);
  const n = people.show(persons, text);
  $("people-count").textContent = n ? `${n} distinct` : "";
  const time = answer.ms < 1000 ? `${Math.max(1, Math.round(answer.ms))} ms` : `${(answer.ms / 1000).toFixed(1)} s`;
  $("status").textContent = text.trim() ? `${persons.length === 1 ? "1 person" : `${persons.length} persons`} · ${time}` : "";
  $("keep").disabled = !text.trim() || doc.isKept || corrections.count(doc) > 0;
  showCollection();
  if (shownAs() !== "persons") showChanged();
}

function markOf(text, one) {
  const name = text.slice(one.start, one.end);
  if (one.added) return {...one, kind: "added", label: `${name}, person added by you`, note: "Added by you. Click to remove"};
  const kind = one.score >= 0.9 ? "sure" : one.score >= 0.6 ? "likely" : "unsure";
  return {...one, kind, label: `${name}, person, ${percent(one.score)}`, note: `Person, ${percent(one.score)}. Click to remove`};
}

const shownAs = () => document.querySelector('input[name="show"]:checked').value;

function showAs(value) {
  document.querySelector(`input[name="show"][value="${value}"]`).checked = true;
  const isPersons = value === "persons";
  $("view").hidden = !isPersons;
  $("changed").hidden = isPersons;
  $("mode-choice").hidden = value !== "redacted";
  for (const one of document.querySelectorAll("[data-copy]")) one.hidden = (one.dataset.copy === "text") === isPersons;
  if (!isPersons) showChanged();
}

async function showChanged() {
  if (!answer) return;
  const mode = shownAs() === "redacted" ? $("mode").value : "pseudonym";
  try {
    const found = answer.text ? await redacted(answer.text, persons, mode) : {text: "", marks: []};
    if (!found) return;
    changed = found;
    changedView.show(found.text, found.marks);
    solved();
  } catch (error) {
    fail(error);
  }
}

for (const radio of document.querySelectorAll('input[name="show"]')) {
  radio.addEventListener("change", () => showAs(radio.value));
}
$("mode").addEventListener("change", showChanged);

function showTip(mark, element) {
  const tip = $("tip");
  tip.hidden = !mark;
  if (!mark) return;
  tip.textContent = mark.note;
  const [box] = element.getClientRects();
  place(tip, box.left, box.top - tip.offsetHeight - 4);
}

// Puts a fixed element there, or as near as the window allows.
function place(element, left, top) {
  element.style.left = "0"; // near the right edge it would be measured with its lines broken
  const {width, height} = element.getBoundingClientRect();
  element.style.left = `${Math.max(8, Math.min(left, innerWidth - width - 8))}px`;
  element.style.top = `${Math.max(8, Math.min(top, innerHeight - height - 8))}px`;
}

addEventListener("keydown", (event) => {
  if (event.key === "Escape") showTip();
});

// ---- the slider

function showThreshold() {
  const told = threshold === null ? "the model’s choice" : `at least ${percent(threshold)}`;
  $("threshold-shown").textContent = told;
  $("threshold").setAttribute("aria-valuetext", told);
  $("threshold-reset").hidden = threshold === null;
}

$("threshold").addEventListener("input", () => {
  threshold = $("threshold").valueAsNumber / 100;
  showThreshold();
  refresh();
});

$("threshold-reset").addEventListener("click", () => {
  threshold = null;
  $("threshold").value = 50;
  showThreshold();
  $("threshold").focus();
  refresh();
});

// ---- corrections

const isCurrent = () => answer !== null && answer.text === doc.text;

function correct(left) {
  doc = {...doc, ...left};
  keepCorrections();
  show();
}

// A click on a mark: a person becomes none, and what was removed comes back.
function toggle(mark) {
  if (!isCurrent()) return;
  showTip();
  correct(mark.kind === "removed" ? corrections.restoring(doc, mark) : corrections.removing(doc, mark));
}

// The selection of the result, or of the text; null where there is none that could be a person.
function selection() {
  if (!isCurrent()) return null;
  const {selectionStart, selectionEnd} = $("text");
  const found = view.selected() ?? {start: selectionStart, end: selectionEnd};
  return trimmed(doc.text, found.start, found.end);
}

function addSelection() {
  const span = selection();
  if (!span) return;
  correct(corrections.adding(doc, span, answer.persons));
  getSelection().removeAllRanges();
  $("text").setSelectionRange(span.end, span.end);
  selectionChanged();
  say(`Added ${doc.text.slice(span.start, span.end)}.`);
}

function selectionChanged() {
  $("add").disabled = isExample && document.activeElement === $("text") ? true : !selection();
  const isHere = view.selected() && selection();
  $("bubble").hidden = !isHere;
  if (!isHere) return;
  const box = getSelection().getRangeAt(0).getBoundingClientRect();
  place($("bubble"), box.left, Math.min(box.bottom, $("view").getBoundingClientRect().bottom) + 6);
}

document.addEventListener("selectionchange", selectionChanged);
$("view").addEventListener("scroll", selectionChanged);
for (const id of ["add", "bubble"]) {
  $(id).addEventListener("pointerdown", (event) => event.preventDefault()); // which would end the selection
  $(id).addEventListener("click", addSelection);
}

// The record of this text follows what is shown; without a correction there is none.
function keepCorrections() {
  if (!isCurrent()) return;
  const record = recordOf(doc);
  const isOurs = record?.text === doc.stored;
  if (!doc.isKept && !corrections.count(doc)) {
    if (record && isOurs && doc.stored === doc.text) collection.drop(doc.id); // else all have grown
    return;
  }
  doc = {...doc, id: isOurs || !record ? doc.id : newId(), stored: doc.text};
  const {id, text, added, removed, isKept} = doc;
  const spans = corrections.applied(answer.persons, doc).map(({start, end}) => ({start, end}));
  if (!collection.put({id, text, added, removed, isKept, spans})) {
    fail(new Error("This browser has no room for more corrections: download them, then clear them."));
  }
}

function showCollection() {
  const all = collection.records();
  const n = all.reduce((sum, record) => sum + corrections.count(record), 0);
  $("corrections-count").textContent = all.length ? `${all.length === 1 ? "1 text" : `${all.length} texts`}, ${n === 1 ? "1 correction" : `${n} corrections`}` : "";
  const drop = (record) => {
    collection.drop(record.id);
    again();
  };
  $("corrections").replaceChildren(...recordItems(all.toReversed(), (record) => setText(record.text), drop));
  $("download").disabled = $("forget").disabled = !all.length;
  const name = answer?.model?.name ?? "en-person";
  $("command").textContent = `python -m training train ${TRAINING_FILE} \\\n  --init artefacts/${name} --epochs 10 --out runs/mine/model`;
}

// After the collection changed by other ways than a correction.
function again() {
  const stored = recordOf(doc);
  // What is typed right now has its corrections still, though its record is of the text before.
  if (!stored || stored.text === doc.text) doc = fresh(doc.text);
  if (isCurrent()) show();
  else showCollection();
}

$("keep").addEventListener("click", () => {
  if (!isCurrent()) return;
  doc = {...doc, isKept: true};
  keepCorrections();
  show();
});
$("download").addEventListener("click", () =>
  download(TRAINING_FILE, collection.asTrainingData(collection.records()), "application/x-ndjson"));
$("forget").addEventListener("click", () => {
  if (!confirm("Forget all corrections? There is no way back.")) return;
  collection.clear();
  again();
});
collection.onChangeElsewhere(again);

// ---- copies

const COPIES = {
  json: () => asJson(answer.text, persons, answer.model),
  curl: () => asCurl(location.origin, requestOf(answer.text, model, threshold), hasKey()),
  conll: () => asConll(answer.sentences, persons, answer.text),
  text: () => changed.text,
};

for (const one of document.querySelectorAll("[data-copy]")) {
  const name = one.textContent;
  one.addEventListener("click", async () => {
    if (!answer || (one.dataset.copy === "text" && !changed)) return;
    try {
      await toClipboard(COPIES[one.dataset.copy]());
    } catch {
      fail(new Error("The browser does not allow this page to copy."));
      return;
    }
    one.textContent = "Copied";
    setTimeout(() => (one.textContent = name), 1500);
    say("Copied.");
  });
}

// ---- problems, keys, models

function say(message) {
  $("note").textContent = message;
}

function fail(error) {
  $("problem").textContent = error.message;
  $("problem").hidden = false;
  if (error.needsKey) $("key-form").hidden = false;
}

function solved() {
  $("problem").hidden = true;
  $("key-form").hidden = true;
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey($("key").value);
  tagging.forget();
  $("key").value = "";
  $("text").focus();
  start();
});

async function listModels() {
  const {models} = await call("/v1/models");
  const current = models.filter((one) => one.current);
  $("model").replaceChildren(...current.map((one) => new Option(`${one.name} ${one.version}`, one.name, one.default, one.default)));
  $("model-choice").hidden = current.length < 2;
  return models.find((one) => one.default)?.name;
}

$("model").addEventListener("change", () => {
  model = $("model").value;
  refresh();
});
$("card-open").addEventListener("click", () =>
  showCard($("card"), $("card-title"), $("card-content"), $("model").value || "en-person"));
$("card-close").addEventListener("click", () => $("card").close());
$("card").addEventListener("click", (event) => event.target === $("card") && $("card").close()); // beside it

// ---- files

$("open").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", async () => {
  const [file] = $("file").files;
  $("file").value = ""; // so that the same one can be chosen again
  if (file) await textOf(file).then(setText, fail);
});
acceptDrops($("drop"), setText, fail);
$("clear").addEventListener("click", () => {
  setText("");
  $("text").focus();
});

// ---- the beginning

let starts = 0; // of which the last counts

async function start() {
  const mine = ++starts;
  refresh();
  await listModels().catch((error) => mine === starts && fail(error));
}

const before = sessionStorage.getItem(TEXT);
setText(before ?? EXAMPLE);
isExample = before === null;
showThreshold();
start();
