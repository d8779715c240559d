// The table of people and the list of corrected texts.

import {element} from "./markdown.js";
import {count} from "./corrections.js";
import {wellFormed} from "./offsets.js";
import {peopleOf} from "./people.js";

const MOST_ROWS = 100;
const SNIPPET_CHARS = 90;

export function percent(score) {
  const rounded = Math.round(score * 100);
  if (rounded === 100 && score < 1) return "> 99 %";
  return rounded === 0 ? "< 1 %" : `${rounded} %`;
}

export function button(text, onClick, label) {
  const made = element("button", text);
  made.type = "button";
  if (label) made.setAttribute("aria-label", label);
  made.addEventListener("click", onClick);
  return made;
}

// root holds a table, a line for nobody and a button for all rows. onWalk(mention): show this one.
export class PeopleTable {
  #root;
  #onWalk;
  #showsAll = false;
  #shown = [[], ""];

  constructor(root, onWalk) {
    this.#root = root;
    this.#onWalk = onWalk;
    root.querySelector("#people-all").addEventListener("click", () => {
      this.#showsAll = true;
      this.show(...this.#shown);
    });
  }

  // Returns how many people there are.
  show(persons, text) {
    this.#shown = [persons, text];
    const people = peopleOf(persons.map((one) => ({...one, text: text.slice(one.start, one.end)})));
    const rows = people.slice(0, this.#showsAll ? undefined : MOST_ROWS);
    this.#root.querySelector("tbody").replaceChildren(...rows.map((one) => this.#row(one)));
    this.#root.querySelector("table").hidden = !people.length;
    this.#root.querySelector("#people-none").hidden = people.length > 0;
    this.#root.querySelector("#people-all").hidden = rows.length === people.length;
    return people.length;
  }

  #row({name, variants, mentions}) {
    let at = -1;
    const place = element("span");
    place.className = "quiet";
    const walk = button(name, () => {
      at = (at + 1) % mentions.length;
      place.textContent = ` ${at + 1} of ${mentions.length}`;
      this.#onWalk(mentions[at]);
    });
    walk.className = "name";
    walk.dir = "auto";
    walk.title = "Show the next mention";
    place.setAttribute("role", "status");
    const who = element("th", walk, place);
    who.scope = "row";
    if (variants.length) {
      const also = element("div", variants.join(" · "));
      also.className = "quiet variants";
      who.append(also);
    }
    const row = element("tr", who, element("td", String(mentions.length)), element("td", scoresOf(mentions)));
    return row;
  }
}

// "84 %", "12 to 97 %", and for persons without a score "yours".
function scoresOf(mentions) {
  const scores = mentions.filter((one) => !one.added).map((one) => one.score);
  if (!scores.length) return "yours";
  const [low, high] = [percent(Math.min(...scores)), percent(Math.max(...scores))];
  return low === high ? low : `${low.replace(" %", "")} to ${high.replace("> ", "")}`;
}

// onOpen(record), onDrop(record).
export function recordItems(records, onOpen, onDrop) {
  return records.map((record) => {
    const line = record.text.trim().replace(/\s+/g, " ");
    const shown = line.length > SNIPPET_CHARS ? `${wellFormed(line.slice(0, SNIPPET_CHARS))} …` : line;
    const open = button(shown, () => onOpen(record));
    open.className = "name";
    open.dir = "auto";
    const n = count(record);
    const told = element("span", n === 1 ? "1 correction" : n ? `${n} corrections` : "as it is");
    told.className = "quiet";
    return element("li", open, told, button("Remove", () => onDrop(record), `Remove this text: ${shown}`));
  });
}
