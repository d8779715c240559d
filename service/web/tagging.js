// A text in, the model's answer out: once for its own labelling, once for the slider, never twice.

import {call} from "./api.js";
import {wellFormed} from "./offsets.js";

// With a threshold the answer is every person that scores as much, so the answer to the lowest one
// holds those to all others, and moving the slider asks nothing.
const LEAST_THRESHOLD = 0.01;
const EMPTY = {model: null, sentences: []};

export class Tagging {
  #text = null;
  #model = null;
  #answers = {}; // promises, by what was asked for: "own", "low"
  #running = new AbortController();
  #calls = 0;

  // What is under way and what was answered count no more: the key is another.
  forget() {
    this.#running.abort();
    this.#text = null;
  }

  // {text, sentences, persons, model, ms}; null where another call came first. threshold null is the
  // model's own labelling. Throws Problem.
  async answer(text, model, threshold) {
    const mine = ++this.#calls;
    if (text !== this.#text || model !== this.#model) {
      this.#running.abort();
      this.#running = new AbortController();
      [this.#text, this.#model, this.#answers] = [text, model, {}];
    }
    const kind = threshold === null ? "own" : "low";
    const least = threshold === null ? null : LEAST_THRESHOLD;
    const answers = this.#answers;
    try {
      answers[kind] ??= ask(requestOf(text, model, least), this.#running.signal);
      const {persons, ...rest} = await answers[kind];
      if (mine !== this.#calls) return null;
      return {...rest, text, persons: threshold === null ? persons : persons.filter((one) => one.score >= threshold)};
    } catch (error) {
      delete answers[kind]; // another call may fare better
      if (mine !== this.#calls) return null;
      throw error;
    }
  }
}

// As POST /v1/tag takes it.
export function requestOf(text, model, threshold) {
  return {
    text: wellFormed(text),
    offset_unit: "utf16",
    ...(model && {model}),
    ...(threshold !== null && {threshold}),
  };
}

async function ask(request, signal) {
  const began = performance.now();
  const {model, sentences} = request.text.trim() ? await call("/v1/tag", request, signal) : EMPTY;
  const persons = sentences.flatMap((sentence) => sentence.persons);
  return {model, sentences, persons, ms: performance.now() - began};
}
