// A text with some of its spans marked, in an element. Knows nothing of the service or of corrections.
//
// Marks: {start, end, kind, label, note}, in order, UTF-16 units of the text, not overlapping. kind is
// a CSS class, label what a screen reader says, note what is shown on hover.
//
// Long texts are shown in chunks of whole lines, of which the browser lays out only those in sight;
// chunks that have not changed are kept as they are.

const CHUNK_CHARS = 2000;

export class View {
  #root;
  #canAct;
  #chunks = []; // {node, text, start, key}
  #marks = new Map(); // element → mark

  // onAct(mark): somebody clicked a mark, or pressed Enter on it. Without it marks are no buttons.
  constructor(root, {onAct, onPoint} = {}) {
    this.#root = root;
    this.#canAct = onAct !== undefined;
    if (!this.#canAct) return;
    root.addEventListener("click", (event) => {
      const mark = this.markOf(event.target);
      if (mark && getSelection().isCollapsed) onAct(mark);
    });
    root.addEventListener("keydown", (event) => this.#onKey(event, onAct));
    root.addEventListener("pointerdown", ({target}) => this.#letSelect(target));
    const point = (event) => onPoint(this.markOf(event.target), event.target);
    root.addEventListener("pointerover", point);
    root.addEventListener("focusin", point);
    for (const leaving of ["pointerleave", "focusout", "scroll"]) root.addEventListener(leaving, () => onPoint());
  }

  // Chromium begins no selection at the very edge of an element that the press focuses.
  #letSelect(element) {
    if (!this.markOf(element)) return;
    const {tabIndex} = element;
    element.removeAttribute("tabindex");
    const restore = () => {
      element.tabIndex = tabIndex;
      for (const end of ["pointerup", "pointercancel"]) removeEventListener(end, restore);
    };
    for (const end of ["pointerup", "pointercancel"]) addEventListener(end, restore);
  }

  markOf(element) {
    return this.#marks.get(element);
  }

  show(text, marks) {
    const focused = this.markOf(document.activeElement);
    const wanted = chunksOf(text, marks);
    const old = this.#chunks;
    let head = 0;
    while (head < old.length && head < wanted.length && old[head].key === wanted[head].key) head++;
    let tail = 0;
    while (
      tail < Math.min(old.length, wanted.length) - head &&
      old.at(-1 - tail).key === wanted.at(-1 - tail).key
    ) tail++;
    for (const one of old.slice(head, old.length - tail)) this.#forget(one);
    const kept = [...old.slice(0, head), ...Array(wanted.length - head - tail).fill(null), ...old.slice(old.length - tail)];
    const after = old[old.length - tail]?.node ?? null;
    this.#chunks = wanted.map((chunk, i) => this.#chunk(chunk, kept[i], after));
    this.#setTabStop(focused);
  }

  #forget({node}) {
    for (const element of node.querySelectorAll("mark")) this.#marks.delete(element);
    node.remove();
  }

  #chunk(chunk, kept, after) {
    if (kept) {
      const elements = kept.node.querySelectorAll("mark");
      chunk.marks.forEach((mark, i) => this.#marks.set(elements[i], mark));
      return {...chunk, node: kept.node};
    }
    const node = document.createElement("div");
    node.className = "chunk";
    let at = 0;
    for (const mark of chunk.marks) {
      const [start, end] = [mark.start - chunk.start, mark.end - chunk.start];
      node.append(chunk.text.slice(at, start), this.#element(mark, chunk.text.slice(start, end)));
      at = end;
    }
    node.append(chunk.text.slice(at));
    this.#root.insertBefore(node, after);
    return {...chunk, node};
  }

  #element(mark, text) {
    const element = document.createElement("mark");
    element.className = mark.kind;
    element.textContent = text;
    if (this.#canAct) {
      element.setAttribute("role", "button");
      element.setAttribute("aria-label", mark.label);
      element.tabIndex = -1;
    }
    this.#marks.set(element, mark);
    return element;
  }

  // One mark can be reached with Tab, the others from it with the arrow keys.
  #setTabStop(focused) {
    if (!this.#canAct) return;
    const again = focused && this.#elements().find((element) => this.markOf(element).start >= focused.start);
    const stop = again || this.#root.querySelector('mark[tabindex="0"]') || this.#root.querySelector("mark");
    if (stop) this.#moveTabStop(stop);
    if (again) again.focus({preventScroll: true});
  }

  #moveTabStop(element) {
    for (const other of this.#root.querySelectorAll('mark[tabindex="0"]')) other.tabIndex = -1;
    element.tabIndex = 0;
  }

  #elements() {
    return [...this.#root.querySelectorAll("mark")];
  }

  #onKey(event, onAct) {
    const mark = this.markOf(event.target);
    if (!mark || event.ctrlKey || event.metaKey || event.altKey) return;
    const elements = this.#elements();
    const at = elements.indexOf(event.target);
    const to = {
      ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: elements.length - 1,
    }[event.key];
    if (to !== undefined) this.#focus(elements[Math.max(0, Math.min(to, elements.length - 1))]);
    else if (["Enter", " ", "Delete"].includes(event.key)) onAct(mark);
    else return;
    event.preventDefault();
  }

  #focus(element) {
    this.#moveTabStop(element);
    element.focus();
  }

  // Scrolls to the mark that begins there, and shows for a moment which one it is.
  reveal(start) {
    const element = this.#elements().find((one) => this.markOf(one).start === start);
    if (!element) return;
    this.#moveTabStop(element);
    element.scrollIntoView({block: "center", inline: "nearest"});
    for (const other of this.#root.querySelectorAll(".found")) other.classList.remove("found");
    void element.offsetWidth; // so that the animation begins again
    element.classList.add("found");
    element.addEventListener("animationend", () => element.classList.remove("found"), {once: true});
  }

  // What is selected here, in UTF-16 units of the text; null where nothing is.
  selected() {
    const selection = getSelection();
    if (selection.isCollapsed || selection.rangeCount === 0) return null;
    const range = selection.getRangeAt(0);
    if (!this.#root.contains(range.commonAncestorContainer)) return null;
    return {
      start: this.#offset(range.startContainer, range.startOffset),
      end: this.#offset(range.endContainer, range.endOffset),
    };
  }

  #offset(container, at) {
    const chunk = this.#chunks.find(({node}) => node.contains(container));
    if (!chunk) { // between chunks
      const next = this.#chunks[at];
      const last = this.#chunks.at(-1);
      return next ? next.start : last.start + last.text.length;
    }
    const before = document.createRange();
    before.selectNodeContents(chunk.node);
    before.setEnd(container, at);
    return chunk.start + before.toString().length;
  }
}

// The text in pieces of about CHUNK_CHARS, each ending with a line, and none inside a mark.
function chunksOf(text, marks) {
  const chunks = [];
  let next = 0;
  for (let start = 0; start < text.length; ) {
    let end = lineEnd(text, start + CHUNK_CHARS);
    const first = next;
    while (next < marks.length && marks[next].start < end) {
      if (marks[next].end > end) end = lineEnd(text, marks[next].end);
      next++;
    }
    const own = marks.slice(first, next);
    const piece = text.slice(start, end);
    const shown = own.map((mark) => [mark.start - start, mark.end - start, mark.kind, mark.label]);
    chunks.push({text: piece, start, marks: own, key: `${JSON.stringify(shown)} ${piece}`});
    start = end;
  }
  return chunks;
}

function lineEnd(text, from) {
  const at = from < text.length ? text.indexOf("\n", from) : -1;
  return at < 0 ? text.length : at + 1;
}
